"""The global model as it was sent: what a reply must hold, and what becomes of its entries.

The entries are of three kinds. Which is which follows from the model that the server sent, its
types and numbers, and never from what an aggregation made of them:

    weights     real or complex, all numbers finite: averaged, and what updates consist of
    counts      whole numbers and booleans (batches seen, masks, quantised weights): the
                strategy within sees them as float64, and what it makes of them is rounded to
                the model's own type, within what clients sent; they are part of no update
    constants   entries with numbers that are not finite, such as a causal mask of -inf: those
                numbers must come back as they were sent, and go on as they are; the strategy
                within sees zeros in their place, since inf - inf is not a number

Of whole numbers Flower's weighted mean is a float64, of which clients could make nothing; a
median of booleans, or q-FedAvg's scaling in place, is an error of NumPy's.
"""

import math
from collections.abc import Collection, Sequence
from functools import reduce

import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict

from .records import BUFFERS, Trainable, listed, model_of

# Half, single and double precision; what torch knows.
_LONGEST = 8

Ranges = dict[str, tuple[np.ndarray, np.ndarray]]


class Unfit(ValueError):
    """Why a reply is left out, as a predicate: "sent ...".

    Args:
        reason: the predicate.
        structural: whether it is a matter of form, which no further training would mend.
    """

    def __init__(self, reason: str, structural: bool = False) -> None:
        super().__init__(reason)
        self.structural = structural


class GlobalModel:
    """The model of one round.

    Args:
        arrays: as the server sends it.
        call: the public name of who sends it, for errors.

    Attributes:
        arrays: as given.
        scale: the length of the weights as one vector, and at least that of as many ones.

    Raises:
        ValueError: if an entry cannot be read, or does not hold numbers.
    """

    def __init__(self, arrays: ArrayRecord, call: str) -> None:
        self.arrays = arrays
        self._own: dict[str, np.ndarray] = {}
        for name, array in arrays.items():
            try:
                numbers = decode(array)
            except Unfit as fault:
                raise ValueError(
                    f"`{call}` got a model whose entry {name!r} {fault}: make it by "
                    f"ArrayRecord(model.state_dict())."
                ) from None
            if numbers.dtype.kind not in "fciub":
                raise ValueError(
                    f"`{call}` got a model whose entry {name!r} is of {numbers.dtype}, and "
                    f"must be of numbers: leave it out of the model's ArrayRecord."
                )
            self._own[name] = numbers
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
        """Return the entries that rates apply to, in the model's order.

        Args:
            trainable: names, or a predicate of the name; None for all real weights that are no
                running statistics of batch normalisation.
            call: the public name that was called, for errors.

        Raises:
            ValueError: if a name is unknown or no real weight, or nothing remains.
        """
        real = [
            name
            for name, own in self._own.items()
            if own.dtype.kind == "f" and name not in self._constants
        ]
        if trainable is None:
            names = [n for n in real if n.rpartition(".")[2] not in BUFFERS]
        elif callable(trainable):
            names = [n for n in real if trainable(n)]
        else:
            names = [n for n in real if n in trainable]
            if strangers := sorted(set(trainable) - set(names)):
                raise ValueError(
                    f"`{call}(trainable=...)` names {strangers}, which are no floating-point "
                    f"entries of the model with finite numbers: it has {sorted(real)}."
                )
        if not names:
            raise ValueError(
                f"`{call}(trainable={trainable!r})` leaves nothing to train of "
                f"{sorted(self._own)}: name the entries that the clients' optimizers change."
            )
        return names

    def check(self, record: ArrayRecord) -> tuple[ArrayRecord, float]:
        """Check a reply's model, entry by entry.

        Args:
            record: as it came.

        Returns:
            (record, length): the record with the model's entries in the model's order, since
            some strategies go by position; and the length of its update, all weights counted.

        Raises:
            Unfit: if it is not such a model.
        """
        if set(record) != set(self._own):
            lacking = listed(sorted(set(self._own) - set(record)))
            more = listed(sorted(set(record) - set(self._own)))
            raise Unfit(f"sent a model that lacks {lacking} and has {more} besides", True)
        entries, square = {}, 0.0
        for name, own in self._own.items():
            entries[name], numbers = self._entry(name, record[name], own)
            if name not in self._counts:
                with np.errstate(all="ignore"):
                    step = np.asarray(numbers - own)
                constant = self._constants.get(name)
                square += _square(step if constant is None else step[~constant])
        same = list(record) == list(entries) and all(record[n] is entries[n] for n in entries)
        return (record if same else ArrayRecord(entries)), math.sqrt(square)

    def _entry(self, name: str, array: Array, own: np.ndarray) -> tuple[Array, np.ndarray]:
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
        alike = numbers.dtype == own.dtype or (
            numbers.dtype.kind == own.dtype.kind == "f" and numbers.dtype.itemsize <= _LONGEST
        )
        if not alike:
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

    # What the strategy within sees, and what goes on of what it returns.

    @property
    def _plain_already(self) -> bool:
        return not self._counts and not self._constants

    def plain(self, record: ArrayRecord) -> ArrayRecord:
        """Return a model as the strategy within is to see it: finite, and no counts."""
        if self._plain_already:
            return record
        arrays = dict(record.items())
        for name in self._counts:
            arrays[name] = Array(record[name].numpy().astype(np.float64))
        for name, constant in self._constants.items():
            numbers = np.array(record[name].numpy())
            numbers[constant] = 0
            arrays[name] = Array(numbers)
        return ArrayRecord(arrays)

    def make_plain(self, reply: Message) -> None:
        """Give a reply a plain model in place of its own."""
        if not self._plain_already:
            ((key, record),) = reply.content.array_records.items()
            reply.content = RecordDict({**dict(reply.content.items()), key: self.plain(record)})

    def dress(self, message: Message, plain: ArrayRecord) -> None:
        """Put the model's own entries into a message where a strategy put the plain ones."""
        if self._plain_already:
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
        """Return the least and the greatest that replies hold, of each number of each count."""
        ranges = {}
        for name in self._counts if replies else ():
            told = [model_of(reply)[name].numpy() for reply in replies]
            ranges[name] = (reduce(np.minimum, told), reduce(np.maximum, told))
        return ranges

    def restored(self, made: ArrayRecord, ranges: Ranges) -> ArrayRecord:
        """Return what the strategy within made of plain replies, with the model's own types.

        Counts are rounded to the nearest number of their type, and brought between the least
        and the greatest that replies held: a mean or median is there already, and what
        momentum or Adam make of a count is not. So what all clients agree on is exact, however
        large. Numbers that are not finite are the model's.

        Args:
            made: the new model.
            ranges: see `ranges`.
        """
        if self._plain_already:
            return made
        arrays = dict(made.items())
        for name in self._counts:
            if name in made and tuple(made[name].shape) == self._own[name].shape:
                numbers = _rounded(made[name].numpy(), self._own[name].dtype)
                low, high = ranges.get(name, (numbers, numbers))
                arrays[name] = Array(np.asarray(np.minimum(np.maximum(numbers, low), high)))
        for name, constant in self._constants.items():
            if name in made and tuple(made[name].shape) == constant.shape:
                numbers = np.array(made[name].numpy())
                numbers[constant] = self._own[name][constant]
                arrays[name] = Array(numbers)
        return ArrayRecord(arrays)

    def broken(self, made: ArrayRecord) -> list[str]:
        """Return the entries of a new model that are not finite, and should be."""
        broken = []
        for name, array in made.items():
            numbers, constant = array.numpy(), self._constants.get(name, np.False_)
            if numbers.dtype.kind in "fc" and not (np.isfinite(numbers) | constant).all():
                broken.append(name)
        return broken


def decode(array: Array) -> np.ndarray:
    """Return an entry's numbers. Nothing is ever unpickled.

    Raises:
        Unfit: unless it is a NumPy array of the type and shape that the entry says.
    """
    if array.stype != "numpy.ndarray":
        raise Unfit(f"is serialised as {array.stype!r}, and only 'numpy.ndarray' is read")
    try:
        numbers = array.numpy()
    except Exception:  # whatever NumPy makes of whatever bytes
        numbers = None
    if not isinstance(numbers, np.ndarray) or numbers.dtype.hasobject:
        raise Unfit("holds bytes that are no whole NumPy array of numbers")
    try:
        honest = np.dtype(array.dtype) == numbers.dtype and tuple(array.shape) == numbers.shape
    except TypeError:
        honest = False
    if not honest:
        raise Unfit(
            f"says that it is {array.dtype} of shape {tuple(array.shape)}, and holds "
            f"{numbers.dtype} of shape {numbers.shape}"
        )
    return numbers


def in_types(record: ArrayRecord, types: Collection[str]) -> ArrayRecord:
    """Return a record with its real entries in these types, one for each entry.

    Raises:
        Unfit: if a number does not fit into its type.
    """
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
    """Return the sum of squares, in float64; infinite if it is too large for one."""
    with np.errstate(over="ignore"):
        magnitudes = np.abs(numbers).astype(np.float64).reshape(-1)
        return float(np.dot(magnitudes, magnitudes))
