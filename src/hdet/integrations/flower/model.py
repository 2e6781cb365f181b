"""The global model as it was sent: what a reply must hold, and how its entries are treated.

There are three kinds of entries. The kind follows from the model that the server sent, its
types and numbers, and never from the result of an aggregation:

    weights     real or complex, all numbers finite: averaged, and part of updates
    counts      whole numbers and booleans (batches seen, masks, quantised weights): the
                wrapped strategy sees them as float64, and its result is rounded to the model's
                own type, within the range that clients sent; they are part of no update
    constants   entries with numbers that are not finite, such as a causal mask of -inf: those
                numbers must come back as they were sent, and are sent on as they are; the
                wrapped strategy sees zeros in their place, since inf - inf is NaN

Flower's weighted mean of whole numbers is a float64, which clients could not load; a median of
booleans, or q-FedAvg's scaling in place, fails in NumPy.
"""

import math
from collections.abc import Collection, Sequence
from functools import reduce

import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict

from ...federated.vectors import blocks
from .records import BUFFERS, Trainable, listed, model_of

# Bytes of double precision, the longest type that torch has.
_MAX_BYTES = 8

Ranges = dict[str, tuple[np.ndarray, np.ndarray]]


class Unfit(ValueError):
    """Why a reply is left out, as a predicate: "sent ...".

    `structural` is whether it is a matter of form, which further training would not change.
    """

    def __init__(self, reason: str, structural: bool = False) -> None:
        super().__init__(reason)
        self.structural = structural


class GlobalModel:
    """The model of one round, as `call` sends it; a `ValueError` unless it holds numbers.

    Attributes:
        arrays: as given.
        scale: the norm of the weights as one vector, and at least that of as many ones.
    """

    def __init__(self, arrays: ArrayRecord, call: str) -> None:
        self.arrays = arrays
        self._own = {name: _own_entry(name, array, call) for name, array in arrays.items()}
        self._counts = [n for n, own in self._own.items() if own.dtype.kind in "iub"]
        self._constants = {}
        count, square = 0, 0.0
        for name, own in self._own.items():
            if name in self._counts:
                continue
            finite = np.isfinite(own)
            if not finite.all():
                self._constants[name] = ~finite
            count += int(finite.sum())
            square += _square(own[finite])
        self.scale = math.sqrt(max(square, count, 1))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each entry, in order."""
        return {name: own.shape for name, own in self._own.items()}

    @property
    def undefined(self) -> list[str]:
        """The entries that hold NaN, which a mask does not."""
        return [name for name in self._constants if np.isnan(self._own[name]).any()]

    def trainable(self, trainable: Trainable, call: str) -> list[str]:
        """Return the entries to which rates apply, in the model's order.

        None stands for all real weights but the running statistics of batch normalisation. A
        name that is not one of real weights is a `ValueError`, as if nothing remains.
        """
        real = [n for n, own in self._own.items() if own.dtype.kind == "f"]
        real = [n for n in real if n not in self._constants]
        if trainable is None:
            names = [n for n in real if n.rpartition(".")[2] not in BUFFERS]
        elif callable(trainable):
            names = [n for n in real if trainable(n)]
        else:
            names = [n for n in real if n in trainable]
            if unknown := sorted(set(trainable) - set(names)):
                raise ValueError(
                    f"`{call}(trainable=...)` names {unknown}, which are no floating-point "
                    f"entries of the model with finite numbers: it has {sorted(real)}."
                )
        if not names:
            raise ValueError(
                f"`{call}(trainable={trainable!r})` leaves nothing to train of "
                f"{sorted(self._own)}: name the entries that the clients' optimizers change."
            )
        return names

    def check(self, record: ArrayRecord) -> tuple[ArrayRecord, float]:
        """Return a reply's model and the norm of its update; `Unfit` if it does not fit.

        The entries are put into the model's order, since some strategies go by position.
        """
        if set(record) != set(self._own):
            lacking = listed(sorted(set(self._own) - set(record)))
            more = listed(sorted(set(record) - set(self._own)))
            raise Unfit(f"sent a model that lacks {lacking} and has {more} besides", True)
        entries, square = {}, 0.0
        for name, own in self._own.items():
            entries[name], numbers = self._checked(name, record[name], own)
            if name not in self._counts:
                with np.errstate(all="ignore"):
                    step = np.asarray(numbers - own)
                constant = self._constants.get(name)
                square += _square(step if constant is None else step[~constant])
        same = list(record) == list(entries) and all(record[n] is entries[n] for n in entries)
        return (record if same else ArrayRecord(entries)), math.sqrt(square)

    def _checked(self, name: str, array: Array, own: np.ndarray) -> tuple[Array, np.ndarray]:
        if tuple(array.shape) != own.shape:
            raise Unfit(f"sent {name!r} as {tuple(array.shape)}, not {own.shape}", True)
        try:
            numbers = decode(array)
        except Unfit as fault:
            raise Unfit(f"sent {name!r}, which {fault}") from None
        if not numbers.dtype.isnative:
            numbers = numbers.astype(numbers.dtype.newbyteorder("="))
            array = Array(numbers)
        # Clients may compute in another precision; another integer type has another range.
        if numbers.dtype != own.dtype and not (
            numbers.dtype.kind == own.dtype.kind == "f" and numbers.dtype.itemsize <= _MAX_BYTES
        ):
            raise Unfit(f"sent {name!r} as {numbers.dtype}, not {own.dtype}", True)
        if name in self._counts:
            return array, numbers
        finite, constant = np.isfinite(numbers), self._constants.get(name)
        if constant is None:
            if not finite.all():
                raise Unfit(f"sent {name!r} with numbers that are not finite")
        elif not (
            finite[~constant].all()
            and np.array_equal(numbers[constant], own[constant], equal_nan=True)
        ):
            raise Unfit(
                f"sent {name!r} with other numbers that are not finite than the model's"
            )
        return array, numbers

    # What the wrapped strategy sees, and what is sent on of its result.

    @property
    def _is_plain(self) -> bool:
        return not self._counts and not self._constants

    def plain(self, record: ArrayRecord) -> ArrayRecord:
        """Return a model as the wrapped strategy is to see it: finite, and without counts."""
        if self._is_plain:
            return record
        arrays = dict(record.items())
        for name in self._counts:
            arrays[name] = Array(record[name].numpy().astype(np.float64))
        for name, constant in self._constants.items():
            arrays[name] = _with(record[name], constant, 0)
        return ArrayRecord(arrays)

    def make_plain(self, reply: Message) -> None:
        """Replace a reply's model by a plain one."""
        if not self._is_plain:
            ((key, record),) = reply.content.array_records.items()
            reply.content = RecordDict({**dict(reply.content.items()), key: self.plain(record)})

    def restore_in(self, message: Message, plain: ArrayRecord) -> None:
        """Replace the plain entries that a strategy put into a message by the model's own."""
        if self._is_plain:
            return
        for key, record in list(message.content.array_records.items()):
            given = {
                name
                for name, array in record.items()
                if name in plain and array.data is plain[name].data
            }
            # One record for all messages, as far as possible: Flower sends it once.
            message.content[key] = (
                self.arrays
                if given == set(self.arrays)
                else ArrayRecord(
                    {n: self.arrays[n] if n in given else a for n, a in record.items()}
                )
            )

    def ranges(self, replies: Sequence[Message]) -> Ranges:
        """Return the least and the greatest of each number of each count in the replies."""
        ranges = {}
        for name in self._counts if replies else ():
            sent = [model_of(reply)[name].numpy() for reply in replies]
            ranges[name] = (reduce(np.minimum, sent), reduce(np.maximum, sent))
        return ranges

    def restored(self, made: ArrayRecord, ranges: Ranges) -> ArrayRecord:
        """Return the wrapped strategy's result with the model's own types.

        Counts are rounded to the nearest number of their type, and clipped to the range of the
        replies: a mean or median is in it already, momentum or Adam on a count may leave it.
        So a count on which all clients agree is exact, however large. Numbers that are not
        finite are the model's.
        """
        if self._is_plain:
            return made
        arrays = dict(made.items())
        shapes = {name: tuple(array.shape) for name, array in made.items()}
        for name in self._counts:
            if shapes.get(name) == self._own[name].shape:
                numbers = _rounded(made[name].numpy(), self._own[name].dtype)
                low, high = ranges.get(name, (numbers, numbers))
                arrays[name] = Array(np.asarray(np.minimum(np.maximum(numbers, low), high)))
        for name, constant in self._constants.items():
            if shapes.get(name) == constant.shape:
                arrays[name] = _with(made[name], constant, self._own[name][constant])
        return ArrayRecord(arrays)

    def not_finite(self, made: ArrayRecord) -> list[str]:
        """Return the entries of a new model that are not finite, and should be."""
        found = []
        for name, array in made.items():
            numbers, constant = array.numpy(), self._constants.get(name, np.False_)
            if numbers.dtype.kind in "fc" and not (np.isfinite(numbers) | constant).all():
                found.append(name)
        return found


def decode(array: Array) -> np.ndarray:
    """Return an entry's numbers; `Unfit` unless they are as claimed. Nothing is unpickled."""
    if array.stype != "numpy.ndarray":
        raise Unfit(f"is serialised as {array.stype!r}, and only 'numpy.ndarray' is read")
    try:
        numbers = array.numpy()
    except Exception:  # whatever NumPy raises on whatever bytes
        numbers = None
    if not isinstance(numbers, np.ndarray) or numbers.dtype.hasobject:
        raise Unfit("holds bytes that are no whole NumPy array of numbers")
    try:
        honest = np.dtype(array.dtype) == numbers.dtype and tuple(array.shape) == numbers.shape
    except TypeError:
        honest = False
    if not honest:
        raise Unfit(
            f"claims to be {array.dtype} of shape {tuple(array.shape)}, and is "
            f"{numbers.dtype} of shape {numbers.shape}"
        )
    return numbers


def in_types(record: ArrayRecord, types: Collection[str]) -> ArrayRecord:
    """Return a record with its real entries in these types; `Unfit` if a number overflows."""
    arrays = {}
    for (name, array), dtype in zip(record.items(), types, strict=True):
        if array.dtype != dtype:
            with np.errstate(over="ignore"):
                cast = array.numpy().astype(dtype)
            if (np.isfinite(array.numpy()) & ~np.isfinite(cast)).any():
                raise Unfit(f"sent {name!r} with numbers too large for {dtype}")
            array = Array(cast)
        arrays[name] = array
    return ArrayRecord(arrays)


def _own_entry(name: str, array: Array, call: str) -> np.ndarray:
    entry = f"`{call}` got a model whose entry {name!r}"
    try:
        numbers = decode(array)
    except Unfit as fault:
        raise ValueError(
            f"{entry} {fault}: make it by ArrayRecord(model.state_dict())."
        ) from None
    if numbers.dtype.kind not in "fciub":
        raise ValueError(
            f"{entry} is of {numbers.dtype}, and must be of numbers: leave it out of the "
            f"model's ArrayRecord."
        )
    return numbers


def _with(array: Array, where: np.ndarray, values: object) -> Array:
    numbers = np.array(array.numpy())
    numbers[where] = values
    return Array(numbers)


def _rounded(numbers: np.ndarray, dtype: np.dtype) -> np.ndarray:
    numbers = np.rint(numbers)
    if dtype.kind == "b":
        return numbers >= 1
    limits = np.iinfo(dtype)
    # The largest float64 that is not above the largest whole number.
    high = float(limits.max)
    high = high if int(high) <= limits.max else math.nextafter(high, 0.0)
    return np.asarray(np.clip(numbers, float(limits.min), high)).astype(dtype)


def _square(numbers: np.ndarray) -> float:
    """Return the sum of squares, in float64 block by block; infinite if it overflows."""
    vector, total = numbers.reshape(-1), 0.0
    with np.errstate(over="ignore"):
        for block in blocks(len(vector)):
            magnitudes = np.abs(vector[block]).astype(np.float64)
            total += float(np.dot(magnitudes, magnitudes))
    return total
