"""Task sources by configuration."""

from __future__ import annotations

from wfr.config import Config
from wfr.tasks.files import Columns, FileTasks
from wfr.tasks.source import TaskSource


def make_source(config: Config) -> TaskSource:
    """The source that `config.tasks` names; raises ValueError for a file that does not fit."""
    tasks = config.tasks
    if tasks.path is None:
        from wfr.tasks.lookup_world import LookupWorld
        from wfr.tasks.mixed_world import MixedWorld

        world = MixedWorld if tasks.format == "mixed_world" else LookupWorld
        return world(tasks.world, held_out=tasks.held_out, eval_tasks=tasks.eval_tasks)
    columns = Columns(tasks.columns, tasks.metric) if tasks.columns else None
    return FileTasks(tasks.format, tasks.path, tasks.held_out, tasks.eval_tasks, columns)
