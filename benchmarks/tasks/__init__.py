"""The tasks of the benchmark, by name; `base.Task` says what a task is."""

from collections.abc import Callable
from pathlib import Path

from .base import Batch as Batch
from .base import Task as Task
from .digits import DigitsTask
from .embedding import EmbeddingTask
from .fashion import FashionTask, WholeFashionTask
from .finetune import FineTuneTask, LastBlockTask, LoRATask
from .gpt import GPTTask, LargerGPTTask
from .movielens import MovieLensTask
from .ngram import NGramTask
from .regression import RegressionTask
from .teacher import TeacherTask
from .text import TextTask

TASKS: dict[str, Callable[[str | Path | None], Task]] = {
    TextTask.name: TextTask,
    GPTTask.name: GPTTask,
    LargerGPTTask.name: LargerGPTTask,
    NGramTask.name: NGramTask,
    DigitsTask.name: DigitsTask,
    FineTuneTask.name: FineTuneTask,
    LastBlockTask.name: LastBlockTask,
    LoRATask.name: LoRATask,
    FashionTask.name: FashionTask,
    WholeFashionTask.name: WholeFashionTask,
    MovieLensTask.name: MovieLensTask,
    TeacherTask.name: TeacherTask,
    RegressionTask.name: RegressionTask,
    EmbeddingTask.name: EmbeddingTask,
}


def get_task(name: str, data: str | Path | None = None) -> Task:
    """Return the task `name`, with its data loaded.

    Args:
        name: one of the keys of `TASKS`.
        data: where the data are, for the tasks that take a path; None for the default
            place that each task's module names.

    Raises:
        MissingDataError: if the data are not on this machine.
        ValueError: if there is no such task, or it takes no path.
    """
    if name not in TASKS:
        raise ValueError(f"there is no task {name!r}: write one of {', '.join(sorted(TASKS))}.")
    return TASKS[name](data)
