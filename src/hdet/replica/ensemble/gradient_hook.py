"""A gradient mean that one broken replica cannot spoil: a communication hook for DDP.

Replicas share their gradients at every step, so under plain DDP a NaN on one of them is a NaN
on all of them one step later, before any sync could heal it. With this hook the mean is over
the replicas whose gradient is finite; the broken one receives it too, and its weights are
healed at the next sync.

    mean = sum over live r of g_r / number of live r

Where all are finite the result is DDP's own, bit for bit.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.futures import Future

from ...errors import where
from .groups import require_membership


def finite_mean_hook(
    process_group: dist.ProcessGroup | None,
    bucket: dist.GradBucket,  # pyright: ignore[reportPrivateImportUsage]
) -> Future[Tensor]:
    """Average a bucket of gradients over the replicas that are finite. Collective.

        ddp.register_comm_hook(None, hdet.finite_mean_hook)

    It costs a pass over the gradients and a collective of one number per bucket; the host does
    not wait. If no replica is finite, the result is NaN. Do not use it with a GradScaler, which
    has to see an overflow to lower its scale.

    Args:
        process_group: the one that DDP uses; None for the default group.
        bucket: given by DDP.

    Returns:
        A future of the mean, as DDP asks for.

    Raises:
        ValueError: if the gradient is sparse, or this rank is not in the group.
    """
    require_membership(process_group, "finite_mean_hook")
    group = process_group if process_group is not None else dist.group.WORLD
    assert group is not None
    gradient = bucket.buffer()
    if gradient.is_sparse:
        raise ValueError(
            f"{where()}`finite_mean_hook` does not work with sparse gradients: make the "
            f"embedding with `sparse=False`, or train without the hook."
        )
    finite = gradient.isfinite().all()
    live = finite.to(torch.float32)
    # Scaled before the sum and by the inverse, as DDP does: so it rounds alike.
    gradient.masked_fill_(~finite, 0).mul_(1 / group.size())
    works = [dist.all_reduce(t, group=group, async_op=True) for t in (live, gradient)]
    futures = [work.get_future() for work in works if work is not None]

    def finish(done: Future[list[Future[list[Tensor]]]]) -> Tensor:
        for one in done.value():
            one.value()  # raises where the collective failed
        # 0 times infinity where nobody is live: NaN, which is what there is.
        return gradient.mul_((group.size() / live).to(gradient.dtype))

    return torch.futures.collect_all(futures).then(finish)
