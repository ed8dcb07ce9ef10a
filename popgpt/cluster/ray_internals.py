"""Every use of what Ray does not promise: private modules and names, classes that are replaced, texts of messages.

It is written for Ray 2.60, to which pyproject.toml is bound. `tests/cluster/test_ray_internals.py` holds that each part
is still there as it is used here. Each says why it is needed: where a later Ray mends that, the part may go.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray import ActorID, PlacementGroupID
from ray._private import ray_constants, services, state
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.node import Node
from ray._private.resource_and_label_spec import ResourceAndLabelSpec
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.exceptions import AuthenticationError
from ray.experimental.internal_kv import _internal_kv_get
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import state as worker_group_state
from ray.train.v2._internal.execution.worker_group import worker_group
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.placement_group import PlacementGroup

# Methods of Node. Each starts a process that serves nobody on one machine: the autoscaler's, the dashboard's (without a
# dashboard too) and the one that reads logs for the driver. ray.init has no argument for any of them.
HELPERS = ("start_monitor", "start_api_server", "start_log_monitor")
# What each node starts instead of the dashboard's agent.
AGENT = (sys.executable, "-I", "-S", str(Path(__file__).with_name("agent.py")))
# Reads what variables and packages an actor is to have.
PARSE = ray.actor.parse_runtime_env_for_task_or_actor
STARTED_HERE = "POPGPT_STARTED_RAY"
# Callbacks of Ray Train's. Each starts a process for each group.
UNUSED_CALLBACKS = (
    "PlacementGroupCleanerCallback",  # outlives all without a dashboard; the `remove_` functions do its work
    "DatasetsCallback",  # of Ray Data's datasets
)
# What gloo, NCCL and their sockets say, in no exception of their own, where a worker they are connected to is gone.
CONNECTION = re.compile(r"gloo|nccl|connection|socket", re.IGNORECASE)

# What an account of Ray Tune's says of a trial whose process died, which it has in no other form; the first is ours.
OUT_OF_MEMORY = "killed by Ray's memory monitor"
DIED = re.compile(r"[Tt]he actor (died|is dead|\w+ is unavailable)")


def local_resources() -> tuple[float, float]:
    """Return the cores and GPUs of a Ray that is started here, as Ray counts them. Ray tells them only once it runs."""
    found = ResourceAndLabelSpec(resources={}, labels={})
    found.resolve(is_head=True)
    return found.num_cpus, found.num_gpus


def named_address() -> str | None:
    """Return the address that RAY_ADDRESS or `ray start` names, None without one. ray.init would start a Ray then."""
    return services.canonicalize_bootstrap_address(None)


def show_token() -> None:
    """Show a cluster the token of this machine's user, if there is one. ray.init does so only for a Ray it starts."""
    with suppress(AuthenticationError):
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def read_authentication() -> None:
    """Have Ray read RAY_AUTH_MODE and RAY_AUTH_TOKEN now. It reads them at its import, and keeps the token."""
    ray._raylet.Config.initialize("")
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def replaced(owner: Any, values: Mapping[str, Any]) -> Iterator[None]:
    """Replace attributes of `owner` meanwhile."""
    before = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


@contextmanager
def loopback_address() -> Iterator[None]:
    """Have a Ray that is started meanwhile know this machine by its loopback address, as Ray does on macOS.

    All its servers then listen there alone. Elsewhere ray.init turns a loopback address into the machine's own, and
    the servers listen on every interface.
    """
    with replaced(ray_constants, {"ENABLE_RAY_CLUSTER": False}):  # read anew by services.get_node_ip_address
        yield


@contextmanager
def without_helper_processes() -> Iterator[None]:
    """Have a Ray that is started meanwhile leave out HELPERS, and the dashboard's agent. Their imports take seconds of
    the cores to train on.
    """
    python = services._build_python_executable_command_memory_profileable

    def command(component: str, *arguments: Any, **options: Any) -> list[str]:
        agents = component == ray_constants.PROCESS_TYPE_DASHBOARD_AGENT
        return list(AGENT) if agents else python(component, *arguments, **options)

    agentless = replaced(services, {python.__name__: command})
    with agentless, replaced(Node, dict.fromkeys(HELPERS, lambda self, **options: None)):
        yield


@contextmanager
def inherited_environment() -> Iterator[None]:
    """Have a Ray that is started meanwhile start processes without the variables that they inherit from this one.

    Ray Train and Ray Tune hand some of these to each of theirs anew. For a process with variables of its own Ray starts
    Python twice, and those that it has started ahead are of no use.
    """
    with replaced(ray.actor, {PARSE.__name__: without_inherited()}):
        yield


def inherit_environment() -> None:
    """Do so from now on, in a process of a Ray that was started so, which has the variable STARTED_HERE."""
    if os.environ.get(STARTED_HERE) and ray.actor.parse_runtime_env_for_task_or_actor is PARSE:
        ray.actor.parse_runtime_env_for_task_or_actor = without_inherited()


def without_inherited() -> Callable[[Any], Any]:
    """Return what reads an actor's `runtime_env`, less the variables that this process has now in the same value."""
    inherited = dict(os.environ)

    def parse(given: Any) -> Any:
        if not given or "env_vars" not in given:
            return PARSE(given)
        own = {name: value for name, value in given["env_vars"].items() if inherited.get(name) != value}
        return PARSE({**given, "env_vars": own} if own else {key: given[key] for key in given if key != "env_vars"})

    return parse


def has_autoscaler() -> bool:
    """Return whether the cluster has an autoscaler: its nodes are then of types that its configuration names."""
    kinds: list[str] = []
    with suppress(Exception):  # either source is there or not, as the autoscaler is of one kind or the other
        report = json.loads(_internal_kv_get("__autoscaling_status"))["autoscaler_report"]
        kinds += report["node_type_mapping"].values()
    with suppress(Exception):
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        kinds += [node.ray_node_type_name for node in [*status.active_nodes, *status.idle_nodes]]
    return any(not kind.startswith("node_") for kind in kinds)


def remove_placement_groups_of(actor: Any) -> None:
    """Remove the placement groups that an actor has made. If it was killed, Ray keeps them until the driver ends."""
    creator = actor._actor_id.binary()
    _remove_placement_groups(lambda group: group.creator_actor_id == creator)


def remove_abandoned_placement_groups() -> None:
    """Remove the placement groups of this job whose actor has died."""
    job = ray.get_runtime_context().get_job_id()
    _remove_placement_groups(
        lambda group: (
            group.creator_job_id.hex() == job
            and not ActorID(group.creator_actor_id).is_nil()
            and group.creator_actor_dead
        )
    )


def _remove_placement_groups(where: Callable[[PlacementGroupTableData], bool]) -> None:
    """The public `ray.util.placement_group_table` does not say who made a group."""
    for row in state.state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(row)
        if group.state != PlacementGroupTableData.REMOVED and where(group):
            ray.util.remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))


def death_of(failure: BaseException) -> Exception | None:
    """Return what Ray says of a worker that died, None for one that failed. Only a private class tells these apart."""
    return failure.health_check_failure if isinstance(failure, WorkerHealthCheckFailedError) else None


class ControllerStart(ControllerCallback):  # type: ignore[misc]
    """Calls `started` in the controller's process once that is there. No public callback is called so early."""

    def __init__(self, started: Callable[[], None]):
        self._started = started

    def after_controller_start(self, train_run_context: Any) -> None:
        SynchronizationActor.leave_out()
        inherit_environment()
        self._started()


class SynchronizationActor:
    """Stands in for Ray Train's, a process that serves `ray.train.report` and barriers, which popgpt does not use."""

    @classmethod
    def leave_out(cls) -> None:
        """Have the groups of this process go without."""
        worker_group.SynchronizationActor = cls
        worker_group_state._shutdown_sync_actor = lambda actor: None

    @classmethod
    def options(cls, **options: Any) -> type[SynchronizationActor]:
        return cls

    @classmethod
    def remote(cls, **arguments: Any) -> str:
        return "left out"


class FixedSizeWithoutAutoscaler(FixedScalingPolicy):  # type: ignore[misc]
    """Asks for workers without telling an autoscaler, where there is none. Ray's would start a process for it, which
    imports for seconds, and wait for that before it starts the workers.
    """

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


class Trainer(DataParallelTrainer):  # type: ignore[misc]
    """Ray Train's, less the processes that serve none of popgpt's groups. TorchTrainer would import torch here."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [each for each in callbacks if type(each).__name__ not in UNUSED_CALLBACKS]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        if type(parts["scaling_policy"]) is FixedScalingPolicy and not has_autoscaler():
            parts["scaling_policy"] = FixedSizeWithoutAutoscaler(self.scaling_config)
        inherit_environment()
        return super()._initialize_and_run_controller(**parts)


def patch_tune() -> None:
    """Have Ray Tune treat a process that Ray's memory monitor killed as one that died, where it would end the sweep;
    and not count its callbacks, for which it imports MLflow, W&B and others to know them by.
    """
    from ray.air._internal import usage
    from ray.air.execution._internal import RayActorManager
    from ray.tune.execution import tune_controller

    class ActorManager(RayActorManager):  # type: ignore[misc]
        def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
            if isinstance(exception, ray.exceptions.OutOfMemoryError):
                exception = ray.exceptions.RayActorError(error_msg=OUT_OF_MEMORY)
            super()._actor_task_failed(tracked_actor_task, exception)

    tune_controller.RayActorManager = ActorManager
    usage.tag_callbacks = lambda callbacks: False
