"""Replicas train alone under DDP, and come back to the last bit, or follow one of them."""

import copy
import io
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.distributed as dist
from schedulefree import AdamWScheduleFree
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import hdet
from hdet.replica.ensemble import training_state
from hdet.replica.ensemble.apart import Apart
from hdet.replica.ensemble.meshes import find_replicas
from hdet.state import Entries
from tests.helpers import WIDTH, loss_at, small_model, two_groups
from tests.rank_runner import run_ranks

pytestmark = pytest.mark.ranks

RATE, BEFORE, TRIAL, AFTER = 0.02, 3, 6, 5
OPTIMIZERS = {
    "adamw": lambda m: torch.optim.AdamW(two_groups(m), RATE, weight_decay=0.1),
    "fused": lambda m: torch.optim.AdamW(two_groups(m), RATE, amsgrad=True, fused=True),
    "momentum": lambda m: torch.optim.SGD(two_groups(m), RATE, momentum=0.9, nesterov=True),
    "schedule-free": lambda m: AdamWScheduleFree(two_groups(m), RATE, warmup_steps=4),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "find unused": {"find_unused_parameters": True},
    "bucket view": {"gradient_as_bucket_view": True, "bucket_cap_mb": 1e-4},
}
CASES = [
    *((name, "plain", "", "plain", BEFORE) for name in OPTIMIZERS),
    *(("adamw", name, "", "plain", BEFORE) for name in list(OPTIONS)[1:]),
    ("adamw", "plain", "finite mean", "plain", BEFORE),
    ("momentum", "plain", "", "no_sync", BEFORE),
    ("adamw", "bucket view", "finite mean", "by hand", BEFORE),
    ("adamw", "plain", "", "compiled", BEFORE),
    ("adamw", "plain", "", "plain", 0),
    ("schedule-free", "find unused", "", "plain", 0),
]


class Net(nn.Module):
    """A model with buffers, and a part that it uses where it is told to."""

    def __init__(self):
        super().__init__()
        self.main = small_model(norm=True)
        self.side = nn.Linear(WIDTH, 1).double()
        self.uses_side = True
        with torch.no_grad():
            for parameter in self.side.parameters():
                parameter.fill_(0.3)

    def forward(self, x):
        return self.main(x) + self.side(x) if self.uses_side else self.main(x)


class Run:
    """A model, its wrapper and its optimizer."""

    def __init__(self, optimizer="adamw", options="plain", hook="", loop="plain"):
        self.net = Net()
        self.ddp = DistributedDataParallel(self.net, **OPTIONS[options])
        if hook:
            self.ddp.register_comm_hook(None, hdet.finite_mean_hook)
        compiled = loop == "compiled"
        self.model: Any = torch.compile(self.ddp, backend="eager") if compiled else self.ddp
        self.loop = loop
        self.optimizer = OPTIMIZERS[optimizer](self.net)
        self.apart = Apart(self.optimizer, self.model, find_replicas([], "Explorer"))

    def train(self, steps, factor=1.0):
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * factor
        getattr(self.optimizer, "train", lambda: None)()
        micro = 2 if self.loop in ("no_sync", "by hand") else 1
        for t in steps:
            for k in range(micro):
                last = k == micro - 1
                if self.loop == "by hand":
                    self.ddp.require_backward_grad_sync = last
                no_sync = self.loop == "no_sync" and not last
                with self.ddp.no_sync() if no_sync else nullcontext():
                    loss_at(self.model, micro * t + k, dist.get_rank()).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def alone(self, steps, factor):
        """Return a twin that has taken the same steps without any wrapper."""
        twin = copy.copy(self)
        twin.net = copy.deepcopy(self.net)
        twin.model, twin.loop = twin.net, "by hand" if self.loop == "no_sync" else self.loop
        twin.optimizer = type(self.optimizer)(two_groups(twin.net))
        twin.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        flag = self.ddp.require_backward_grad_sync
        twin.train(steps, factor)
        self.ddp.require_backward_grad_sync = flag
        return twin

    def everything(self):
        """Return a copy of all that training changes."""
        return copy.deepcopy((self.net.state_dict(), self.optimizer.state_dict()))


def same(a, b) -> bool:
    """Return whether two nested values are the same, tensors to the last bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def _span(start, length):
    return range(start, start + length)


def _there_and_back(optimizer, options, hook, loop, before):
    plain, run = (Run(optimizer, options, hook, loop) for _ in range(2))
    for r in (plain, run):
        r.train(range(before))
    began = run.everything()
    steps, factor = _span(100, TRIAL), 1.0 + dist.get_rank()
    run.apart.begin()
    twin = run.alone(steps, factor)
    run.train(steps, factor)
    tried = run.everything()
    run.apart.end()
    run.train([], 1.0)  # the rate as it was
    back = run.everything()
    for r in (plain, run):
        r.net.uses_side = options != "find unused"
        r.train(_span(before, 2))
        r.net.uses_side = True
        r.train(_span(before + 2, AFTER - 2))
    return {
        "as alone": same(tried, twin.everything()),
        "back": same(back, began),
        "as if never": same(run.everything(), plain.everything()),
        "flags": (run.ddp.require_backward_grad_sync, run.ddp.require_forward_param_sync),
        "their flags": (
            plain.ddp.require_backward_grad_sync,
            plain.ddp.require_forward_param_sync,
        ),
        "tried": tried,
        "after": run.everything(),
    }


def _all_there_and_back():
    return {case: _there_and_back(*case) for case in CASES}


_ran: dict[str, list] = {}


def _results():
    if not _ran:
        _ran["two"] = run_ranks(_all_there_and_back, 2)
    return _ran["two"]


@pytest.mark.parametrize("case", CASES, ids=lambda c: " ".join(map(str, c)))
def test_each_trains_as_if_alone_and_all_go_back_as_if_nothing_had_been(case):
    first, second = (results[case] for results in _results())
    for found in (first, second):
        assert found["as alone"]
        assert found["back"]
        assert found["as if never"]
        assert found["flags"] == found["their flags"]
    weights = [found["tried"][0]["main.0.weight"] for found in (first, second)]
    assert not torch.equal(*weights)
    after = [found["after"] for found in (first, second)]
    for name in ("main.0.weight", "side.weight"):
        assert torch.equal(*(model[name] for model, _ in after))
    assert same(*(optimizer["state"] for _, optimizer in after))


# --- all follow one


def _followed(optimizer, before):
    run = Run(optimizer, "find unused")
    run.train(range(before))
    # Only the last rank uses the side, and has optimizer state of it.
    run.net.uses_side = dist.get_rank() == 2
    run.apart.begin()
    run.train(_span(100, TRIAL), 1.0 + dist.get_rank())
    for group in run.optimizer.param_groups:
        group["lr"] = RATE
    tried = run.everything()
    places = [p.data_ptr() for p in run.net.parameters()]
    run.apart.end(winner=2 if before else 0)
    won = run.everything()
    assert places == [p.data_ptr() for p in run.net.parameters()]
    run.net.uses_side = True
    run.train(_span(before, AFTER))
    return tried, won, run.everything()


def _all_followed(steps_elsewhere):
    if steps_elsewhere:
        # As beside parameters on a GPU, where the count of steps stays on the CPU.
        training_state._travels = lambda tensor, _: tensor.numel() > 1
    return {(o, b): _followed(o, b) for o in OPTIMIZERS for b in (0, BEFORE)}


@pytest.mark.parametrize("steps_elsewhere", [False, True])
def test_all_go_on_from_the_winner_bit_for_bit(steps_elsewhere):
    ranks = run_ranks(_all_followed, 3, steps_elsewhere)
    for case in ranks[0]:
        winner, _, after = ranks[2 if case[1] else 0][case]
        for results in ranks:
            _, won, mine = results[case]
            assert same(won, winner), case
            assert same(mine[1], after[1]), case
            for name, values in mine[0].items():
                if "running" not in name:
                    assert torch.equal(values, after[0][name]), case


# --- checkpoints and evaluation


def _resumed():
    run = Run()
    run.train(range(BEFORE))
    began = run.everything()
    run.apart.begin()
    run.train(_span(100, 2), 1.0 + dist.get_rank())
    buffer = io.BytesIO()
    torch.save((run.apart.state_dict(), *run.everything()), buffer)
    run.train(_span(102, 2), 1.0 + dist.get_rank())
    buffer.seek(0)
    state, weights, optimizer = torch.load(buffer, weights_only=True)
    other = Run()
    other.net.load_state_dict(weights)
    other.optimizer.load_state_dict(optimizer)
    other.apart.assign(other.apart.parsed(Entries(state, "Explorer")))
    assert other.apart.apart
    other.train(_span(102, 2), 1.0 + dist.get_rank())
    went_on = same(other.everything(), run.everything())
    other.apart.end()
    other.train([], 1.0)
    found = went_on, same(other.everything(), began)
    run.apart.assign(run.apart.parsed(Entries(other.apart.state_dict(), "Explorer")))
    assert not run.apart.apart
    other.train(_span(BEFORE, AFTER))
    return *found, other.everything()[1]


def test_a_run_resumed_while_apart_goes_on_and_goes_back():
    ranks = run_ranks(_resumed, 2)
    for went_on, back, _ in ranks:
        assert went_on
        assert back
    assert same(ranks[0][2], ranks[1][2])


def _evaluated():
    run = Run("schedule-free")
    run.train(range(BEFORE))
    run.optimizer.eval()
    averages = run.everything()
    run.optimizer.train()
    run.apart.begin()
    run.train(_span(100, TRIAL), 2.0)
    run.optimizer.eval()
    run.apart.end()
    run.optimizer.param_groups[0]["lr"] = run.optimizer.param_groups[1]["lr"] = RATE
    return averages, run.everything()


def test_a_schedule_free_optimizer_in_eval_mode_goes_back_to_its_averages():
    for averages, found in run_ranks(_evaluated, 2):
        for name, values in averages[0].items():
            torch.testing.assert_close(found[0][name], values)
        assert not found[1]["param_groups"][0]["train_mode"]


# --- who cannot


def _reasons():
    def reason(optimizer, model, group=None):
        replicas = find_replicas([] if model is None else model.parameters(), "Explorer", group)
        return Apart(optimizer, model, replicas).reason()

    net = Net()
    ddp = DistributedDataParallel(net)
    adamw = OPTIMIZERS["adamw"](net)
    part = torch.optim.AdamW(net.main.parameters())
    more = torch.optim.AdamW([*net.parameters(), nn.Parameter(torch.ones(2))])
    alone = dist.new_subgroups(1)[0]
    found = {
        "good": reason(adamw, ddp),
        "inside": reason(adamw, nn.ModuleDict({"model": ddp})),
        "compiled": reason(adamw, torch.compile(ddp, backend="eager")),
        "bare": reason(adamw, net),
        "none": reason(adamw, None),
        "two optimizers": reason(part, ddp),
        "outside": reason(more, ddp),
        "other group": reason(adamw, ddp, alone),
        "static graph": reason(adamw, DistributedDataParallel(net, static_graph=True)),
    }
    for parameter in net.side.parameters():
        parameter.requires_grad_(False)
    found["frozen"] = reason(part, ddp)
    sharded = small_model()
    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicate", "shard"))
    fully_shard(sharded, mesh=mesh)
    found["sharded"] = reason(torch.optim.AdamW(sharded.parameters()), sharded)
    return found


def test_those_who_cannot_are_told_why_and_what_to_do():
    expected = {
        "good": None,
        "inside": None,
        "compiled": None,
        "frozen": None,
        "bare": "model=ddp",
        "none": "model=ddp",
        "two optimizers": "give all to one optimizer",
        "outside": "wrap a module that contains them all",
        "other group": "give both the same `process_group`",
        "static graph": "use_reentrant=False",
        "sharded": "train with DistributedDataParallel",
    }
    for found in run_ranks(_reasons, 2):
        assert found.keys() == expected.keys()
        for name, words in expected.items():
            assert found[name] is None if words is None else words in found[name], name
