import torch

from hdet.seeding import generator, unkeyed


def test_a_key_draws_the_same_in_every_process():
    assert generator(7, "lr", 2).initial_seed() == 4601352718035665239
    drawn = torch.randint(1000, (4,), generator=generator(7, "lr", 2))
    assert drawn.tolist() == [108, 913, 465, 442]


def test_every_part_of_the_key_matters():
    keys = [(0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1), (0, "a1"), (0, 1, "a")]
    draws = {float(torch.rand((), generator=generator(*key))) for key in keys}
    assert len(draws) == len(keys)


def test_the_global_random_state_is_not_touched():
    state = torch.get_rng_state()
    generator(3, "x")
    assert torch.equal(torch.get_rng_state(), state)


def test_an_unkeyed_generator_is_that_of_the_seed_alone():
    expected = torch.randn(3, generator=torch.Generator().manual_seed(7))
    assert torch.equal(torch.randn(3, generator=unkeyed(7)), expected)
