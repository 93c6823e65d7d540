"""The plan of a dense network on any device, as steps on views that were made once.

Every linear layer is summed in blocks of stages: what a block's elements take from earlier blocks is one matrix
product at its start, and only the triangle inside the block is left to its stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fastgen.sampling.dense.plan import DensePlan, Ids
from fastgen.sampling.dense.recording import Constant, Dot, Function, Product, RunningSum
from fastgen.sampling.executors.steps import Call, Step, bind, sum_steps

BLOCK = 32  # stages
GAP = 16  # inputs with zero weights that are cheaper to multiply than to step over


@dataclass
class _Run:
    """Entries start:stop of a list of elements, which lie side by side in their buffers (or are one, if step is 0)."""

    start: int
    stop: int
    views: list[tuple[int, int, int]]  # of every argument: node, first column, step


class DenseExecutor:
    """Exact cached sampling of a network over flattened pixels.

    Cost: every product and every function of the network once per image, as in one full forward.
    Memory: values that sums read, whole; of the others what is still to be read.
    """

    is_sequence = False

    def __init__(self, plan: DensePlan, n: int, like: Tensor) -> None:
        self.plan, self.n_images, self.like = plan, n, like
        self.image_shape = plan.recording.shape
        self.substeps = plan.substeps
        self.row = 0
        self.nodes = plan.recording.nodes
        self.buffers: list[Tensor] = []
        self.constants: list[Tensor | None] = []  # of every node, in the order of its elements
        for node, store in zip(self.nodes, plan.stores):
            elements = torch.from_numpy(store.elements)
            constant = node.constant if isinstance(node, Function) else getattr(node, "static", None)
            self.constants.append(None if constant is None else self._load(constant[:, elements]))
            if isinstance(node, Constant):
                self.buffers.append(self._load(node.value[:, elements]))
            else:
                self.buffers.append(like.new_zeros(n, store.size))
        channels = self.image_shape[0]
        drawn = 1 if self.substeps > 1 else channels
        self.targets = [self.buffers[0][:, t * drawn : (t + 1) * drawn] for t in range(plan.n_stages)]
        self.scratch = like.new_zeros(n, plan.recording.output.shape[0])
        self.inputs = {i: self._sorted_inputs(node) for i, node in enumerate(self.nodes) if isinstance(node, Product)}
        self.programs: dict[int, list[Call]] = {}
        self.results = [self._result(t) for t in range(plan.n_stages)]

    def _load(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.like.device, self.like.dtype).contiguous()

    # running ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Nothing of the last image is read in the next one."""

    def begin_row(self, row: int) -> None:
        """Remember the row."""
        self.row = row

    def parameters(self, column: int, substep: int) -> Tensor:
        """Compute what the last draw made known; parameters [N, P]."""
        t = self._time(column, substep)
        if t not in self.programs:
            self.programs[t] = [call for step in self.steps(t) for call in bind(step, self._temporary)]
        for call in self.programs[t]:
            call()
        return self.results[t][0]

    def write(self, column: int, substep: int, x: Tensor) -> None:
        """Put the drawn channels into the image."""
        self.targets[self._time(column, substep)].copy_(x)

    def end_row(self) -> None:
        """Nothing waits for the end of a row."""

    def _time(self, column: int, substep: int) -> int:
        return (self.row * self.image_shape[2] + column) * self.substeps + substep

    def _temporary(self, role: str, *shape: int) -> Tensor:
        return self.like.new_empty(shape)

    # steps ------------------------------------------------------------------------------------------------------

    def steps(self, stage: int) -> list[Step]:
        """What is computed before draw `stage`: the elements of that stage, and the start of a block."""
        steps: list[Step] = []
        if stage % BLOCK == 0:
            for index, node in enumerate(self.nodes):
                if isinstance(node, Product) and len(node.inputs) == 1:
                    steps += self._block_start(index, node, stage)
        for index, (node, store) in enumerate(zip(self.nodes, self.plan.stores)):
            if stage + 1 >= len(store.bounds) or store.bounds[stage] == store.bounds[stage + 1]:
                continue
            offsets = store.elements[store.bounds[stage] : store.bounds[stage + 1]]
            if isinstance(node, Product):
                steps += self._product(index, node, stage, offsets)
            elif isinstance(node, Dot):
                steps += self._dot(index, node, stage, offsets)
            elif isinstance(node, Function):
                steps += self._function(index, node, stage, offsets)
            elif isinstance(node, RunningSum):
                steps += self._running_sum(index, node, stage, offsets)
        return steps + self.results[stage][1]

    def _view(self, index: int, first: int, count: int) -> Tensor:
        return self.buffers[index][:, first : first + count]

    def _static(self, index: int, first: int, count: int) -> Tensor | None:
        constant = self.constants[index]
        return None if constant is None else constant[:, first : first + count]

    # sums

    def _sorted_inputs(self, node: Product) -> list[tuple[Ids, Ids]]:
        """Of every row the inputs that are computed at all, and their stages, by stage."""
        rows = []
        for ids in node.inputs.numpy():
            stages = np.where(ids >= 0, self.plan.stage[ids], -1)
            order = np.argsort(stages, kind="stable")[int((stages < 0).sum()) :]
            rows.append((order, stages[order]))
        return rows

    def _block_start(self, index: int, node: Product, stage: int) -> list[Step]:
        """Everything that the elements of a block take from earlier blocks."""
        store = self.plan.stores[index]
        first, end = (int(b) for b in store.bounds[np.minimum([stage, stage + BLOCK], len(store.bounds) - 1)])
        if first == end:
            return []
        order, stages = self.inputs[index][0]
        earlier = order[: np.searchsorted(stages, stage)]
        weight = node.weight[:, torch.from_numpy(store.elements[first:end])]
        products = self._terms(node.inputs[0].numpy(), earlier, weight)
        target = self._view(index, first, end - first)
        return sum_steps(target, self._static(index, first, end - first), products)

    def _product(self, index: int, node: Product, stage: int, offsets: Ids) -> list[Step]:
        """The elements of a stage: the rest of their sums, or all of them in a layer over several rows."""
        store = self.plan.stores[index]
        columns = node.weight.shape[1]
        steps: list[Step] = []
        cuts = [0, *(np.flatnonzero(np.diff(offsets // columns)) + 1).tolist(), len(offsets)]
        for a, b in pairwise(cuts):
            row = int(offsets[a] // columns)
            order, stages = self.inputs[index][row]
            whole = len(node.inputs) > 1
            start = 0 if whole else np.searchsorted(stages, stage - stage % BLOCK)
            weight = node.weight[:, torch.from_numpy(offsets[a:b] % columns)]
            inputs = order[start : np.searchsorted(stages, stage, side="right")]
            products = self._terms(node.inputs[row].numpy(), inputs, weight)
            target = self._view(index, store.at(stage) + a, b - a)
            total = self._static(index, int(store.bounds[stage]) + a, b - a) if whole else target
            steps += sum_steps(target, total, products)
        return steps

    def _dot(self, index: int, node: Dot, stage: int, offsets: Ids) -> list[Step]:
        store = self.plan.stores[index]
        steps: list[Step] = []
        for k, offset in enumerate(offsets.tolist()):
            ids = node.inputs[offset].numpy()
            products = self._terms(ids, np.flatnonzero(ids >= 0), node.weight[offset][:, None])
            target = self._view(index, store.at(stage) + k, 1)
            steps += sum_steps(target, self._static(index, int(store.bounds[stage]) + k, 1), products)
        return steps

    def _terms(self, ids: Ids, inputs: Ids, weight: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The sum over `inputs` k of element ids[k] times weight[k], as products of views with matrices."""
        weight = weight[torch.from_numpy(inputs)]
        live = (weight != 0).any(1).numpy()
        elements, weight = ids[inputs[live]], weight[torch.from_numpy(live)]
        owner, position = self.plan.owner[elements], self.plan.position[elements]
        order = np.lexsort((position, owner))
        owner, position, weight = owner[order], position[order], weight[torch.from_numpy(order)]
        rings = np.array([self.plan.stores[o].ring for o in owner.tolist()], np.int64)
        step = np.where(rings[1:] > 0, 1, GAP)
        breaks = (np.diff(owner) != 0) | (np.diff(position) > step)
        cuts = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(position)]
        terms = []
        for a, b in pairwise(cuts):
            if a == b:
                continue
            first, count = int(position[a]), int(position[b - 1] - position[a]) + 1
            part = weight[a:b]
            if not np.array_equal(position[a:b], np.arange(first, first + count)):  # gaps, or elements read twice
                part = weight.new_zeros(count, weight.shape[1])
                part.index_add_(0, torch.from_numpy(position[a:b] - first), weight[a:b])
            terms.append((self._view(int(owner[a]), first, count), self._load(part)))
        return terms

    # elementwise functions

    def _function(self, index: int, node: Function, stage: int, offsets: Ids) -> list[Step]:
        store = self.plan.stores[index]
        args = [ids.numpy()[offsets] for ids in node.args]
        constant = self.constants[index]
        steps: list[Step] = []
        for run in self._runs(args, spread=len(args) + (constant is not None) == 2):
            count = run.stop - run.start
            target = self._view(index, store.at(stage) + run.start, count)
            views = [self._view(owner, first, count if step else 1) for owner, first, step in run.views]
            if constant is not None:
                first = int(store.bounds[stage]) + run.start
                views.append(constant[:, first : first + count])
            steps.append(Step(node.op, target, tuple(views), node.params))
        return steps

    def _running_sum(self, index: int, node: RunningSum, stage: int, offsets: Ids) -> list[Step]:
        store = self.plan.stores[index]
        width = node.inputs.shape[1]
        terms = node.inputs.numpy().reshape(-1)
        steps: list[Step] = []
        cuts = [0, *(np.flatnonzero(np.diff(offsets // width)) + 1).tolist(), len(offsets)]
        for a, b in pairwise(cuts):
            line = offsets[a:b]
            before = [] if line[0] < width else [node.first + line - width]
            for run in self._runs([*before, terms[line]], spread=bool(before)):
                count = run.stop - run.start
                target = self._view(index, store.at(stage) + a + run.start, count)
                views = [self._view(owner, first, count if step else 1) for owner, first, step in run.views]
                steps.append(Step("add" if before else "copy", target, tuple(views)))
        return steps

    def _runs(self, args: Sequence[Ids], spread: bool) -> list[_Run]:
        """Cut lists of elements into runs that are views; with `spread` one argument may stand still."""
        owners, positions = [self.plan.owner[a] for a in args], [self.plan.position[a] for a in args]
        kinds = np.zeros(len(args[0]) - 1, np.int64)  # number of the argument that stands still + 1; 0 none; -1 a cut
        for number, (owner, position) in enumerate(zip(owners, positions)):
            step = np.where(np.diff(owner) == 0, np.diff(position), -1)
            stands = (step == 0) & spread & (kinds == 0)
            kinds = np.where(stands, number + 1, np.where(step == 1, kinds, -1))
        cuts: list[int] = [0]
        previous: int | None = None
        for at, now in enumerate(kinds.tolist()):
            if now < 0 or (previous is not None and now != previous):
                cuts.append(at + 1)
                previous = None
            else:
                previous = now
        cuts.append(len(args[0]))
        runs = []
        for a, b in pairwise(cuts):
            still = int(kinds[a]) if b - a > 1 else 0
            views = [
                (int(owner[a]), int(position[a]), int(number + 1 != still))
                for number, (owner, position) in enumerate(zip(owners, positions))
            ]
            runs.append(_Run(a, b, views))
        return runs

    # parameters

    def _result(self, t: int) -> tuple[Tensor, list[Step]]:
        """Where the parameters of a draw are, [N, P], and what brings them there."""
        _, _, width = self.image_shape
        pixel, group = divmod(t, self.substeps)
        ids = self.plan.recording.output.numpy()[:, pixel // width, pixel % width]
        parts = self.plan.parts if self.substeps == 1 else [self.plan.parts[group]]
        if self.substeps == 1:
            (run, *others) = self._runs([ids], spread=False)
            if not others and self.buffers[run.views[0][0]].shape[0] == self.n_images:
                return self._view(run.views[0][0], run.views[0][1], len(ids)), []
        steps: list[Step] = []
        for part in parts:
            columns = np.arange(len(ids))[part]
            target = self.scratch[:, part]
            if len(columns) > 1 and columns[1] != columns[0] + 1:  # a view with gaps
                pieces = [(self.scratch[:, c : c + 1], ids[c : c + 1]) for c in columns.tolist()]
            else:
                pieces = [(target, ids[part])]
            for out, its in pieces:
                for run in self._runs([its], spread=False):
                    owner, first, _ = run.views[0]
                    count = run.stop - run.start
                    steps.append(Step("copy", out[:, run.start : run.stop], (self._view(owner, first, count),)))
        return self.scratch, steps
