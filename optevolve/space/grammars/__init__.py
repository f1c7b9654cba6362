"""Grammars as TOML tables; see `optevolve.space.grammar.from_toml`."""
