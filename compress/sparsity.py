"""Which weights are zero: prune any network, hold its zeros, count them.

Semantics are those of TensorFlow's pruning API: a pruned weight is overwritten, there is no dense
copy behind it. It can only come back if one optimizer step lifts it over the next threshold. In
return a model is sparse as it stands: names stay, and saving, loading and copying need nothing more.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from winnow.compress.allocation import Allocation, layerwise
from winnow.compress.patterns import UNSTRUCTURED, Blocks, Pattern, Pooling, from_matrix, to_matrix
from winnow.compress.schedules import Schedule
from winnow.compress.scores import Magnitude, Score

# Says by its name and itself whether a weight is pruned.
Choice = Callable[[str, nn.Parameter], bool]
Keep = dict[str, Bool[Tensor, "..."]]  # by name of a weight and in its shape; True = kept


def matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """Give all weights that can be pruned by name: of linear, convolution, embedding, recurrent layers.

    Biases and norms are no matrices. A depthwise convolution has a handful of weights a channel and is
    left out, as TensorFlow's pruning API does, and so is a transposed one. What layers share is one weight.
    """
    found: dict[nn.Parameter, str] = {}
    for prefix, module in model.named_modules():
        depthwise = isinstance(module, _ConvNd) and module.groups == module.in_channels > 1
        if depthwise or isinstance(module, _ConvTransposeNd | nn.LayerNorm | nn.RMSNorm):
            continue
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if parameter.dim() > 1 and "weight" in name.rpartition(".")[2]:
                found.setdefault(parameter, name)
    return {name: parameter for parameter, name in found.items()}


def in_layers(name: str, weight: nn.Parameter) -> bool:
    """Choose a Transformer's: attention's four matrices and the feed-forward two of every layer.

    Frontend, embeddings, norms and head stay dense: they are small, and all else depends on them.
    """
    return "layers" in name.split(".") and weight.dim() == 2


def in_embeddings(name: str, weight: nn.Parameter) -> bool:
    """Choose the rows that ids are looked up in."""
    return {"frontend", "embedding"} <= set(name.split("."))


def in_frontend(name: str, weight: nn.Parameter) -> bool:
    """Choose what else a frontend makes tokens with."""
    return "frontend" in name.split(".") and not in_embeddings(name, weight)


def prunable(model: nn.Module, choose: Choice | None = None) -> dict[str, nn.Parameter]:
    """Give the weights that are pruned, by name.

    Args:
        model: any network.
        choose: which of its `matrices`; by default those `in_layers`, and all of them in a network that has
            none there.

    Raises:
        ValueError: if there is none.
    """
    known = matrices(model)
    found = {name: weight for name, weight in known.items() if (choose or in_layers)(name, weight)}
    if not found and choose is None:
        found = known
    if not found:
        raise ValueError(
            f"no weight of {type(model).__name__} is chosen to be pruned; there are {sorted(known) or 'none'}"
        )
    return found


def magnitude_keep(
    weight: Float[Tensor, "row column"], sparsity: float, block: tuple[int, int], pooling: Pooling
) -> Bool[Tensor, "row column"]:
    """Keep the blocks of one matrix that are largest; see `Blocks` for the arguments."""
    return keep_best({"": weight}, sparsity, Blocks(block=block, pooling=pooling), Magnitude(), layerwise)[""]


def keep_best(
    weights: Mapping[str, Tensor], sparsity: float, pattern: Pattern, score: Score, allocate: Allocation
) -> Keep:
    """Keep the best of all weights together, each at the sparsity that the allocation gives it."""
    scores = {name: score.units(name, weight, pattern) for name, weight in weights.items()}
    shares = allocate(weights, scores, sparsity)
    keep = {}
    for name, weight in weights.items():
        units = pattern.best(scores[name], shares[name])[..., None]
        keep[name] = from_matrix(pattern.join(units, *to_matrix(weight).shape), weight.shape)
    return keep


def prune(
    model: nn.Module,
    sparsity: float,
    pattern: Pattern = UNSTRUCTURED,
    score: Score | None = None,
    allocate: Allocation = layerwise,
    choose: Choice | None = None,
) -> Keep:
    """Prune a network once, in place.

    Args:
        model: any network; its weights keep their names.
        sparsity: fraction of zeros in what is pruned [0–1).
        pattern: what is pruned together.
        score: what is kept; by default magnitude. One that needs gradients has watched some.
        allocate: which weight bears how much.
        choose: which weights; see `prunable`.

    Returns:
        What is kept. `hold` keeps the rest at zero in further training, `lock` finds it again.

    Raises:
        ValueError: if the pattern does not fit a weight or the sparsity.
    """
    pruner = Pruner(pattern, score or Magnitude(), allocate, choose)
    pattern.require_sparsity(sparsity)
    pruner.refresh(model, sparsity)
    return pruner.keep


@torch.no_grad()
def zero(model: nn.Module, keep: Keep) -> None:
    """Set every pruned weight to zero; also of a copy, such as an exponential moving average."""
    for name, kept in keep.items():
        model.get_parameter(name).masked_fill_(~kept, 0)


def hold(model: nn.Module, keep: Keep, optimizer: torch.optim.Optimizer) -> None:
    """Keep pruned weights at zero from now on: after every step of an optimizer, they are set again.

    Momentum and weight decay move what has no gradient, so that a mask alone would not hold them.
    """
    optimizer.register_step_post_hook(lambda *_: zero(model, keep))


def lock(model: nn.Module, choose: Choice | None = None) -> Keep:
    """Read the pattern off a sparse model: keep what is not zero.

    Paper: Prune Once for All (Zafrir et al. 2021, arXiv 2111.05754), section 3.3, pattern-lock.
    """
    return {name: weight.detach() != 0 for name, weight in prunable(model, choose).items()}


def measured_sparsity(model: nn.Module, choose: Choice | None = None) -> float:
    """Count the zeros among all prunable weights, as a fraction [0–1]."""
    weights = list(prunable(model, choose).values())
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    return zeros / sum(weight.numel() for weight in weights)


def require_zeros(model: nn.Module, keep: Keep) -> None:
    """Make sure that a model is as sparse as its masks say, before it is saved.

    Raises:
        RuntimeError: if a pruned weight is not exactly zero.
    """
    for name, kept in keep.items():
        alive = int(model.get_parameter(name)[~kept].count_nonzero())
        if alive:
            raise RuntimeError(f"{alive} pruned weights of {name} are not zero")


class Pruner:
    """Prunes a network while it trains, in any loop: it holds the masks, which its `state_dict` keeps.

    Args:
        pattern: what is pruned together.
        score: what is kept.
        allocate: which weight bears how much.
        choose: which weights; see `prunable`.
    """

    def __init__(
        self,
        pattern: Pattern = UNSTRUCTURED,
        score: Score | None = None,
        allocate: Allocation = layerwise,
        choose: Choice | None = None,
    ) -> None:
        self.pattern, self.score = pattern, score or Magnitude()
        self.allocate, self.choose = allocate, choose
        self.keep: Keep = {}

    def start(self, model: nn.Module) -> None:
        """Take the zeros that a network comes with for pruned, unless masks are known already.

        Raises:
            ValueError: if the pattern does not fit a weight.
        """
        for name, weight in prunable(model, self.choose).items():
            self.pattern.require_fit(name, to_matrix(weight))
        if not self.keep:
            self.keep = lock(model, self.choose)
        self.keep = {name: kept.to(model.get_parameter(name).device) for name, kept in self.keep.items()}

    def watch(self, model: nn.Module) -> None:
        """Look at the gradients, after each backward pass and before the step; some scores need it."""
        if self.score.needs_gradients:
            self.score.watch(prunable(model, self.choose), self.pattern)

    def step(
        self,
        model: nn.Module,
        step: int,
        schedule: Schedule,
        optimizers: Iterable[torch.optim.Optimizer] = (),
    ) -> None:
        """Follow a schedule: choose masks anew if it is time, and set all pruned weights to zero.

        Args:
            model: the network, after an optimizer's step.
            step: how many of them there were, from 1.
            schedule: when, and how many.
            optimizers: they forget the moments of what is pruned.
        """
        if schedule.should_prune(step):
            self.refresh(model, schedule.sparsity(step), optimizers)
        zero(model, self.keep)

    @torch.no_grad()
    def refresh(
        self, model: nn.Module, sparsity: float, optimizers: Iterable[torch.optim.Optimizer] = ()
    ) -> None:
        """Choose the kept weights anew, prune the others, and make optimizers forget those.

        Raises:
            ValueError: if the pattern does not fit a weight.
        """
        weights = prunable(model, self.choose)
        for name, weight in weights.items():
            self.pattern.require_fit(name, to_matrix(weight))
        self.keep = keep_best(weights, sparsity, self.pattern, self.score, self.allocate)
        for name, weight in weights.items():
            kept = self.keep[name]
            weight.copy_(self.score.make_up(name, weight, kept, self.pattern).masked_fill(~kept, 0))
            for optimizer in optimizers:
                for moment in optimizer.state.get(weight, {}).values():
                    if isinstance(moment, Tensor) and moment.shape == weight.shape:
                        moment.masked_fill_(~kept, 0)
        self.score.refreshed()

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {"keep": dict(self.keep), "seen": dict(self.score.seen)}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        self.keep, self.score.seen = state["keep"], state["seen"]
