"""Token files that somebody else made: their form, and how splits are taken from them."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from distrain.config.section import Section

TokenFormat = Literal["distrain", "megatron", "datatrove", "npy"]
TokenDtype = Literal["uint8", "uint16", "uint32", "int32", "int64"]
LARGEST_ID: dict[TokenDtype, int] = {
    "uint8": 2**8 - 1,
    "uint16": 2**16 - 1,
    "uint32": 2**32 - 1,
    "int32": 2**31 - 1,
    "int64": 2**63 - 1,
}


def is_url(path: str) -> bool:
    """Tell a URL, ``file://`` included, from a path: there lie published shards."""
    return "://" in path


def local_paths(paths: tuple[str, ...]) -> list[str]:
    """Return those of this machine; what a store holds is seen when it is listed."""
    return [path for path in paths if not is_url(path)]


class TokenSource(Section):
    """Ready token files, read in place and never written to."""

    form: ClassVar[str] = "tokens"
    """See ``DataConfig.form_of``."""
    kind: Literal["tokens"]
    format: TokenFormat
    """``megatron`` (``.bin`` and ``.idx``), ``datatrove`` (``.ds`` and ``.ds.index``), ``npy`` (ids
    in a row, with or without NumPy's header), or ``distrain`` (folders of ``prepare`` stages, or
    URLs where ``distrain data publish`` put their splits)."""
    paths: Annotated[tuple[str, ...], Field(min_length=1)]
    """Files, folders or globs; read in this order, and by name within a folder or glob."""
    source: str | None = None
    """Of ``distrain``: which source of those stages; default: all of them, one after the other."""
    storage_options: dict[str, Any] = Field(default_factory=dict)
    """For the store of a URL, as fsspec takes them (``endpoint_url``, ``anon``). No secrets: the
    recipe is copied into the run folder."""
    dtype: TokenDtype | None = None
    """Of one id; needed only where no file says it (``npy`` without a header)."""
    eos_id: Annotated[int, Field(ge=0)] | None = None
    """Id that ends each document; of ``npy``, what finds the documents."""
    tokenizer: str | None = None
    """The ``tokenizer.json`` that made the ids; gives ``eos_id`` and the size of the vocabulary."""
    validation_fraction: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Share of the documents: those just before the test split. ``distrain`` has its own splits."""
    test_fraction: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Share of the documents: the last ones."""

    @model_validator(mode="after")
    def _documents_can_be_found(self) -> Self:
        if self.format == "npy" and self.eos_id is None and self.tokenizer is None:
            raise ValueError(
                "format npy needs eos_id, or the tokenizer that has it: nothing else in such a "
                "file says where a document ends"
            )
        return self

    @model_validator(mode="after")
    def _ids_hold_the_end(self) -> Self:
        largest = LARGEST_ID[self.dtype] if self.dtype is not None else None
        if largest is not None and self.eos_id is not None and self.eos_id > largest:
            raise ValueError(
                f"eos_id {self.eos_id} is no {self.dtype}, whose largest id is {largest}; correct "
                "one of the two"
            )
        return self

    @model_validator(mode="after")
    def _own_format_only(self) -> Self:
        if self.is_prepared:
            return self
        if self.source is not None:
            raise ValueError(
                f"source names a part of what a prepare stage wrote; remove it, as files of format "
                f"{self.format} have none"
            )
        urls = [path for path in self.paths if is_url(path)]
        if urls:
            raise ValueError(
                f"'{urls[0]}' is a URL, and {self.format} files are mapped, not copied; copy "
                "them to a disk of the machines that train"
            )
        return self

    @property
    def is_prepared(self) -> bool:
        """Whether prepare stages wrote it: with manifests, splits and a tokenizer of its own."""
        return self.format == "distrain"

    @property
    def knows_tokenizer(self) -> bool:
        """Whether it is known which tokenizer made the ids."""
        return self.is_prepared or self.tokenizer is not None

    @property
    def is_remote(self) -> bool:
        """Whether blocks are downloaded as they are read."""
        return any(is_url(path) for path in self.paths)
