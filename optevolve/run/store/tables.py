"""The tables of a study, as a person queries them. `docs/` and the migrations describe the same; a test compares them.

Numbers that JSON has no word for are kept faithfully in the arrays of `curves`: NaN as null, the infinities as "Infinity" and "-Infinity".
Times are UTC.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

__all__ = ["METADATA", "SCHEMA_TABLE", "curves", "evaluations", "events", "proposals", "rejections", "studies"]

SCHEMA_TABLE = "optevolve_schema"  # Alembic's version table; by its own name, so that a file of another program is told apart

METADATA = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


def _study() -> Column[int]:
    return Column("study", Integer, ForeignKey("studies.id"), nullable=False)


studies = Table(
    "studies",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("config", Text, nullable=False),  # TOML, as given
    Column("version", Text, nullable=False),  # of optevolve, when created
    Column("created", DateTime, nullable=False),
    Column("finished", DateTime),
    Column("driver", Text, nullable=False),  # who holds or last held the study: "process 4711 on host"
)

proposals = Table(
    "proposals",
    METADATA,
    Column("study", Integer, ForeignKey("studies.id"), primary_key=True),
    Column("id", Text, primary_key=True),
    Column("rule", Text, nullable=False),
    Column("genome", Text, nullable=False),  # JSON, as text so that it is kept to the letter
    Column("stage", Text, nullable=False),
    Column("parent", Text, nullable=False),
    Column("particle", Integer, nullable=False),
    Column("timestep", Integer, nullable=False),
    Column("mutation", Text, nullable=False),
    Index(None, "study", "parent"),
)

rejections = Table(
    "rejections",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("study", Integer, nullable=False),
    Column("before", Text, nullable=False),  # the proposal that was found next
    Column("position", Integer, nullable=False),
    Column("rule", Text, nullable=False),
    Column("reason", Text, nullable=False),
    ForeignKeyConstraint(["study", "before"], ["proposals.study", "proposals.id"]),
    Index(None, "study", "before"),
)

evaluations = Table(
    "evaluations",
    METADATA,
    Column("id", Integer, primary_key=True),  # order of arrival
    _study(),
    Column("job", Text, nullable=False),
    Column("turn", Integer, nullable=False),  # order of asking, the same for any number of workers; -1 if unknown
    Column("proposal", Text),
    Column("stage", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("protocol", JSON, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("split", Text, nullable=False),
    Column("fixed_learning_rate", Float),  # given with the job; null: chosen by trials
    Column("fixed_weight_decay", Float),  # likewise
    Column("status", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("fitness", Float),
    Column("interval_low", Float),  # 95 % interval of the fitness; null where the protocol gives none
    Column("interval_high", Float),
    Column("learning_rate", Float),
    Column("weight_decay", Float, nullable=False, server_default="0"),
    Column("task_scores", JSON, nullable=False, server_default="[]"),  # of several tasks; empty with one
    Column("device", Text, nullable=False, server_default=""),  # what it was computed on
    Column("steps", BigInteger().with_variant(Integer, "sqlite"), nullable=False),
    Column("seconds", Float, nullable=False),
    Column("same_as", Text, nullable=False),
    Column("finished_at", DateTime, nullable=False),
    UniqueConstraint("study", "job"),
    ForeignKeyConstraint(["study", "proposal"], ["proposals.study", "proposals.id"]),
    Index(None, "study", "stage"),
    Index(None, "study", "proposal"),
)

curves = Table(
    "curves",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("evaluation", Integer, ForeignKey("evaluations.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("learning_rate", Float, nullable=False),
    Column("weight_decay", Float, nullable=False, server_default="0"),
    Column("seed", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("steps", JSON, nullable=False),
    Column("train_loss", JSON, nullable=False),
    Column("train_score", JSON, nullable=False),
    Column("score", JSON, nullable=False),
    Index(None, "evaluation"),
)

events = Table(
    "events",
    METADATA,
    Column("id", Integer, primary_key=True),
    _study(),
    Column("at", DateTime, nullable=False),
    Column("kind", Text, nullable=False),
    Column("detail", JSON, nullable=False),
)
