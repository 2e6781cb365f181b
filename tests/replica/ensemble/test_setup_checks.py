"""Wrapped optimizers, containers of them, and those that no rate per replica fits."""

import pytest
import torch

import hdet
from hdet.replica.ensemble.setup_checks import unwrapped
from tests.helpers import small_model


class Accelerated(torch.optim.Optimizer):
    """As Accelerate wraps: all is passed on, and `Optimizer.__init__` is never called."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    param_groups = property(lambda self: self.optimizer.param_groups)  # pyright: ignore
    state = property(lambda self: self.optimizer.state)  # pyright: ignore
    defaults = property(lambda self: self.optimizer.defaults)  # pyright: ignore

    def step(self, closure=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.optimizer.step(closure)


class Engine:
    """As DeepSpeed wraps: no torch optimizer itself."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.param_groups = optimizer.param_groups


class Container(torch.optim.Optimizer):
    """As torchtitan has it: several optimizers, and parameter groups of its own."""

    def __init__(self, model, key="optimizers"):
        self.__dict__[key] = [torch.optim.AdamW(m.parameters(), 0.01) for m in model[::2]]
        super().__init__(list(model.parameters()), {"lr": 0.01})


class Zero(torch.optim.SGD):
    pass


Zero.__name__ = "DeepSpeedZeroOptimizer"


class Flat:
    """As DeepSpeed's own optimizers are: none of torch's, with groups of flat copies."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    param_groups = property(lambda self: self.optimizer.param_groups)


def flat(name):
    return type(name, (Flat,), {})


class Adafactor(torch.optim.SGD):
    """As transformers has it: without a rate it computes its own."""

    def __init__(self, parameters):
        super().__init__(parameters, 0.1)
        for group in self.param_groups:
            group["lr"] = None


def _explorer(optimizer, **kwargs):
    return hdet.Explorer(optimizer, sync_every=2, **kwargs)


def _one_cycle(optimizer, spread=0.3, **kwargs):
    kwargs["ensemble_lr_spread_ratio"] = spread
    return hdet.OneCycleAutoLR(optimizer, 0.1, 10, **kwargs)


BOTH = pytest.mark.parametrize("make", [_explorer, _one_cycle])


@pytest.mark.parametrize("wrap", [Accelerated, Engine, lambda o: Accelerated(Accelerated(o))])
@BOTH
def test_a_transparent_wrapper_is_looked_through(make, wrap):
    inner = torch.optim.AdamW(small_model().parameters(), 0.01)
    scheduler = make(wrap(inner))
    assert unwrapped(wrap(inner), "x") is inner
    assert scheduler.optimizer is inner
    inner.step()
    scheduler.step(1.0)


def test_a_scheduler_made_for_the_wrapper_is_taken():
    wrapper = Accelerated(torch.optim.SGD(small_model().parameters(), 0.25))
    inner = torch.optim.lr_scheduler.StepLR(wrapper, 1, 0.5)
    explorer = _explorer(wrapper, scheduler=inner)
    wrapper.step()
    explorer.step(1.0)
    assert explorer.get_last_lr() == [0.125]

    class Prepared:
        scheduler = torch.optim.lr_scheduler.StepLR(wrapper.optimizer, 1, 0.5)

    # As Accelerate wraps a scheduler, and would step it once per process.
    explorer = _explorer(wrapper, scheduler=Prepared())
    wrapper.step()
    explorer.step(1.0)
    assert explorer.get_last_lr() == [0.0625]


@pytest.mark.parametrize("key", ["optimizers", "chained_optimizers"])
@BOTH
def test_a_container_is_refused_with_the_remedy(make, key):
    with pytest.raises(ValueError, match="got Container, a container of 2 optimizers") as error:
        make(Container(small_model(), key))
    assert "Make one scheduler for each optimizer inside" in str(error.value)


@BOTH
def test_a_wrapper_that_runs_no_hooks_is_refused(make):
    class FaultTolerant(Accelerated):
        """As torchft wraps, under a name that says nothing of what is inside."""

        def __init__(self, optimizer):
            self.optim = optimizer

        param_groups = property(lambda self: self.optim.param_groups)  # pyright: ignore

    wrapped = FaultTolerant(torch.optim.AdamW(small_model().parameters()))
    with pytest.raises(
        TypeError, match="got FaultTolerant, which wraps an optimizer and calls"
    ):
        make(wrapped)


@BOTH
def test_lbfgs_is_refused(make):
    with pytest.raises(ValueError, match="does not work with LBFGS: it evaluates the model"):
        make(torch.optim.LBFGS(small_model().parameters()))


@pytest.mark.parametrize("wrap", [lambda o: o, Accelerated, Engine])
@BOTH
def test_zero_is_refused_inside_a_wrapper_too(make, wrap):
    with pytest.raises(ValueError, match="a rate per rank would be a rate per shard"):
        make(wrap(Zero(small_model().parameters(), 0.1)))


@pytest.mark.parametrize("wrap", [lambda o: o, Accelerated])
@pytest.mark.parametrize("hides", [False, True])
@BOTH
def test_deepspeeds_optimizers_are_refused_though_none_is_one_of_torchs(make, wrap, hides):
    def given(name):
        made = flat(name)(torch.optim.AdamW(small_model().parameters(), 0.1))
        if hides:
            # Where it has groups of its own, nothing is looked through.
            made.optimizer = None
            type(made).param_groups = [{"params": [], "lr": 0.1}]
        return wrap(made)

    for name in ("DeepSpeedZeroOptimizer", "DeepSpeedZeroOptimizer_Stage3", "BF16_Optimizer"):
        with pytest.raises(ValueError, match=f"{name}. Each rank updates its own shard"):
            make(given(name))
    with pytest.raises(ValueError, match="FP16_Optimizer: it steps copies of the weights"):
        make(given("FP16_Optimizer"))


@BOTH
def test_an_optimizer_without_a_rate_is_refused(make):
    with pytest.raises(ValueError, match="parameter group 0 of Adafactor has lr=None"):
        make(Adafactor(small_model().parameters()))


def test_in_the_null_setting_lbfgs_is_nobodys_business():
    optimizer = torch.optim.LBFGS(small_model().parameters())
    assert _explorer(optimizer, explore=[]).get_last_lr() == [1.0]
    assert _one_cycle(optimizer, spread=0, cycle_momentum=False).get_last_lr() == [
        pytest.approx(0.004)
    ]
