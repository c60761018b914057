"""Environment variables by which a supervisor tells a rank what no launcher of others' knows."""

STORE_FD = "DISTRAIN_STORE_FD"
"""Of rank 0: a descriptor that listens at MASTER_PORT already, so that nobody else can take the
port between its choice and its use."""
