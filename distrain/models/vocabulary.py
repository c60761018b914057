"""Which of a model's tensors have an entry for each token of the vocabulary."""

from collections.abc import Mapping

from distrain.config.models import ModelConfig
from distrain.models import model_on_meta


def vocabulary_axes(config: ModelConfig, vocab_size: int) -> Mapping[str, int]:
    """Return the axis of the vocabulary of each parameter that has one, by name.

    Found by comparison with a model of one row more: embedding, output layer and its bias, whatever
    the family calls them. A tied output layer is named, too.
    """
    larger = dict(model_on_meta(config, vocab_size + 1).named_parameters(remove_duplicate=False))
    axes: dict[str, int] = {}
    named = model_on_meta(config, vocab_size).named_parameters(remove_duplicate=False)
    for name, parameter in named:
        sizes = zip(parameter.shape, larger[name].shape, strict=True)
        differing = [axis for axis, (here, there) in enumerate(sizes) if here != there]
        if differing:
            axes[name] = differing[0]
    return axes
