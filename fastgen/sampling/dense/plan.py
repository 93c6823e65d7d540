"""When every element of a recorded forward is computed, and where it is kept.

Time is counted in stages: stage 0 comes before the first draw, stage t + 1 after draw t. An element belongs to the
stage after the latest draw that it sees, its readiness, and every element that is needed is computed once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from fastgen.sampling.dense.recording import Dot, Function, Image, Node, Product, Recording, RunningSum
from fastgen.sampling.readiness import CausalityError

Ids = npt.NDArray[np.int64]


@dataclass(eq=False)
class Store:
    """Where the elements of a node lie in its buffer [N, size]: those of a stage are neighbours.

    Either one stage after the other, or, where nothing is read long after it was computed, in a ring of `ring` slots
    that the stages take in turn.
    """

    node: Node
    elements: Ids  # offsets in the node, by stage
    bounds: Ids  # elements[bounds[s] : bounds[s + 1]] are of stage s
    ring: int = 0
    width: int = 0  # of a slot
    inverse: Ids = field(default_factory=lambda: np.empty(0, np.int64))  # position of every offset

    @property
    def size(self) -> int:
        """Columns of the buffer."""
        return self.ring * self.width if self.ring else len(self.elements)

    def at(self, stage: int) -> int:
        """Where the elements of a stage begin."""
        return (stage % self.ring) * self.width if self.ring else int(self.bounds[stage])


@dataclass
class DensePlan:
    """Everything a dense executor needs to know."""

    recording: Recording
    parts: list[slice]
    substeps: int
    stage: Ids  # of every identity; -1 where it is not needed
    owner: Ids  # index of the node of every identity
    position: Ids  # of every identity, in its node's buffer
    stores: list[Store]

    @property
    def n_stages(self) -> int:
        """Stages 0 .. n_stages - 1, each followed by a draw."""
        channels, height, width = self.recording.shape
        return height * width * (channels if self.substeps > 1 else 1)


def plan_dense(recording: Recording, parts: list[slice]) -> DensePlan:
    """The plan of a recording whose channel groups are drawn from the output slices `parts`.

    Raises: CausalityError if the parameters of a group see its own value or anything later.
    """
    nodes = _fold_affine(recording)
    ready = _readiness(nodes, recording.count)
    substeps = _substeps(recording, parts, ready)
    channels = recording.shape[0]
    needed = _needed(nodes, recording)
    stage = np.where(needed, ready // (1 if substeps > 1 else channels) + 1, -1)
    last = stage.copy()  # the stage that an element is last read in
    owner = np.zeros(recording.count, np.int64)
    far = np.zeros(recording.count, bool)  # read by sums that take what is ready as one piece
    for index, node in enumerate(nodes):
        owner[node.first : node.first + node.count] = index
        _note_readers(node, stage, last, far)
    _note_draws(recording, parts, substeps, last)
    position = np.zeros(recording.count, np.int64)
    stores = []
    for node in nodes:
        store = _store(node, stage, last, far, owner, position)
        own = slice(node.first, node.first + node.count)
        position[own] = store.inverse
        stores.append(store)
    folded = Recording(nodes, recording.output, recording.shape, recording.count, recording.n_images)
    return DensePlan(folded, parts, substeps, stage, owner, position, stores)


def _fold_affine(recording: Recording) -> list[Node]:
    """Nodes where sums of a x + c, with constants a and c, take a into their weights and c into their static parts."""
    count = recording.count
    source = np.arange(count)  # the element x that an element is a x + c of
    scale, shift = torch.ones(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    nodes: list[Node] = []
    for node in recording.nodes:
        own = slice(node.first, node.first + node.count)
        if isinstance(node, Function) and len(node.args) == 1 and node.op in ("add", "mul", "neg"):
            constant = torch.tensor(-1.0) if node.constant is None else node.constant.double()
            if constant.dim() == 0 or len(constant) == 1:
                arg = node.args[0]
                source[own] = source[arg.numpy()]
                scale[own] = scale[arg] if node.op == "add" else scale[arg] * constant
                shift[own] = shift[arg] + constant if node.op == "add" else shift[arg] * constant
        nodes.append(_folded(node, source, scale, shift) if isinstance(node, (Product, Dot)) else node)
    return nodes


def _folded(node: Product | Dot, source: Ids, scale: torch.Tensor, shift: torch.Tensor) -> Node:
    ids = node.inputs
    live = ids >= 0
    origin = torch.from_numpy(source)[ids.clamp_min(0)]
    if bool((~live | (origin == ids)).all()):
        return node
    a = torch.where(live, scale[ids.clamp_min(0)], 1.0)  # [M or O, K]
    c = torch.where(live, shift[ids.clamp_min(0)], 0.0)
    weight = node.weight.double()
    if isinstance(node, Product):
        if not bool((a == a[:1]).all()):  # the rows share their weight
            return node
        added, weight = (c @ weight).flatten(), a[0][:, None] * weight
    else:
        added, weight = (c * weight).sum(1), a * weight
    static = added[None] if node.static is None else node.static + added
    dtype = node.weight.dtype
    kind = Product if isinstance(node, Product) else Dot
    inputs = torch.where(live, origin, -1)
    return kind(node.first, node.count, node.path, inputs, weight.to(dtype), static.to(dtype))


def _readiness(nodes: list[Node], count: int) -> Ids:
    """The latest value of the image that every element may see, -1 for none."""
    ready = np.full(count, -1, np.int64)
    for node in nodes:
        own = slice(node.first, node.first + node.count)
        if isinstance(node, Image):
            ready[own] = np.arange(node.count)
        elif isinstance(node, Product):
            seen = np.where(node.inputs.numpy() < 0, -1, ready[node.inputs.numpy()])  # [M, K]
            live = (node.weight != 0).numpy()
            for m, row in enumerate(seen):
                order = np.argsort(-row, kind="stable")  # the first live input is the latest
                first = live[order].argmax(0)
                at = np.where(live.any(0), row[order][first], -1) if len(row) else np.full(live.shape[1], -1)
                ready[node.first + m * live.shape[1] : node.first + (m + 1) * live.shape[1]] = at
        elif isinstance(node, Dot):
            ids = node.inputs.numpy()
            ready[own] = np.where((ids < 0) | (node.weight == 0).numpy(), -1, ready[ids]).max(1, initial=-1)
        elif isinstance(node, Function):
            ready[own] = np.stack([ready[ids.numpy()] for ids in node.args]).max(0)
        elif isinstance(node, RunningSum):
            ready[own] = np.maximum.accumulate(ready[node.inputs.numpy()], 0).reshape(-1)
    return ready


def _substeps(recording: Recording, parts: list[slice], ready: Ids) -> int:
    """1 if all parameters of a pixel are known before it, else one for every channel group."""
    channels, height, width = recording.shape
    seen = ready[recording.output.numpy()] - channels * np.arange(height * width).reshape(1, height, width)
    for group, part in enumerate(parts):
        late = np.argwhere(seen[part] >= group)
        if len(late):
            p, row, column = late[0]
            latest = int(ready[recording.output.numpy()][part][p, row, column])
            pixel, channel = divmod(latest, channels)
            raise CausalityError(
                "dense engine: the parameters of a pixel must not see it or later pixels in raster order; those of "
                f"channel group {group} at row {row}, column {column} see row {pixel // width}, column "
                f"{pixel % width}, channel {channel}; mask the weights, or give the order to the model"
            )
    return len(parts) if bool((seen >= 0).any()) else 1


def _needed(nodes: list[Node], recording: Recording) -> npt.NDArray[np.bool_]:
    """The elements that some parameter depends on."""
    needed = np.zeros(recording.count, bool)
    needed[recording.output.numpy().reshape(-1)] = True
    for node in reversed(nodes):
        own = needed[node.first : node.first + node.count]
        if isinstance(node, Image):
            own[:] = True
        elif isinstance(node, Product):
            ids, live = node.inputs.numpy(), (node.weight != 0).numpy()
            for row, wanted in zip(ids, own.reshape(len(ids), -1)):
                used = row[live[:, wanted].any(1)]
                needed[used[used >= 0]] = True
        elif isinstance(node, Dot):
            used = node.inputs.numpy()[own[:, None] & (node.weight != 0).numpy()]
            needed[used[used >= 0]] = True
        elif isinstance(node, Function):
            for arg in node.args:
                needed[arg.numpy()[own]] = True
        elif isinstance(node, RunningSum):
            wanted = np.maximum.accumulate(own.reshape(node.inputs.shape)[::-1], 0)[::-1]
            own[:] = wanted.reshape(-1)
            needed[node.inputs.numpy()[wanted]] = True
    return needed


def _note_readers(node: Node, stage: Ids, last: Ids, far: npt.NDArray[np.bool_]) -> None:
    """Let a node's reads prolong the lives of what it reads."""
    own = stage[node.first : node.first + node.count]
    if isinstance(node, Product):
        for row, stages in zip(node.inputs.numpy(), own.reshape(len(node.inputs), -1)):
            row = row[row >= 0]
            last[row] = np.maximum(last[row], stages.max(initial=-1))
            far[row] = True
    elif isinstance(node, (Dot, Function)):
        arrays = [node.inputs.numpy()] if isinstance(node, Dot) else [ids.numpy() for ids in node.args]
        for ids in arrays:
            stages = np.broadcast_to(own[:, None], ids.shape) if ids.ndim == 2 else own
            np.maximum.at(last, ids[ids >= 0], stages[ids >= 0])
    elif isinstance(node, RunningSum):
        lines = own.reshape(node.inputs.shape)
        np.maximum.at(last, node.inputs.numpy().reshape(-1), own)
        before = last[node.first : node.first + node.count].reshape(lines.shape)
        before[:-1] = np.maximum(before[:-1], lines[1:])


def _note_draws(recording: Recording, parts: list[slice], substeps: int, last: Ids) -> None:
    """The parameters of a pixel live until it is drawn."""
    _, height, width = recording.shape
    pixels = np.arange(height * width).reshape(1, height, width) * substeps
    for group, part in enumerate(parts):
        ids = recording.output.numpy()[part]
        draws = np.broadcast_to(pixels + (group if substeps > 1 else 0), ids.shape)
        np.maximum.at(last, ids.reshape(-1), draws.reshape(-1))


def _store(node: Node, stage: Ids, last: Ids, far: npt.NDArray[np.bool_], owner: Ids, position: Ids) -> Store:
    """Order the needed elements of a node: by stage, and within one as they will be read and written together."""
    own = slice(node.first, node.first + node.count)
    offsets = np.flatnonzero(stage[own] >= 0)
    stages = stage[own][offsets]
    within = offsets
    if isinstance(node, Function) and len(offsets):  # beside each other where the first argument's are
        first = node.args[0].numpy()[offsets]
        within = np.argsort(np.lexsort((offsets, position[first], owner[first])), kind="stable")
    order = np.lexsort((within, stages))
    elements, stages = offsets[order], stages[order]
    bounds = np.searchsorted(stages, np.arange((int(stages[-1]) if len(stages) else 0) + 2))
    store = Store(node, elements, bounds)
    place = np.arange(len(elements))
    if isinstance(node, (Dot, Function, RunningSum)) and len(elements) and not far[own][elements].any():
        depth = int((last[own][elements] - stages).max()) + 1
        width = int(np.diff(bounds).max())
        if 2 * depth * width < len(elements):
            store.ring, store.width = depth, width
            place = (stages % depth) * width + place - bounds[stages]
    store.inverse = np.full(node.count, -1, np.int64)
    store.inverse[elements] = place
    return store
