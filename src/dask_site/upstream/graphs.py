"""Tasks as Dask keeps them, fused ones too."""

from dask._task_spec import (
    Alias,
    DataNode,
    GraphNode,
    Task,
    TaskRef,
    convert_legacy_graph,
)
from dask._task_spec import _execute_subgraph as execute_subgraph

__all__ = [
    "Alias",
    "DataNode",
    "GraphNode",
    "Task",
    "TaskRef",
    "convert_legacy_graph",
    "execute_subgraph",
]
