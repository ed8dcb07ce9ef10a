"""What `ray_internals` uses of Ray beyond its promises is there, as it is used there."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private import ray_constants, services, state
from ray._private.node import Node
from ray.air._internal import usage
from ray.air.execution._internal import RayActorManager
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import state as worker_group_state
from ray.train.v2._internal.execution.worker_group import worker_group
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.tune.execution import class_cache, tune_controller

from popgpt.cluster import ray_internals, session
from popgpt.cluster.process_group import ProcessGroup, TorchBackend
from tests.nodes import kill, wait_for


@pytest.fixture(autouse=True)
def ray_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what a test has replaced."""
    for owner, name in [
        (worker_group, "SynchronizationActor"),
        (worker_group_state, "_shutdown_sync_actor"),
        (tune_controller, "RayActorManager"),
        (usage, "tag_callbacks"),
        (ray.actor, "parse_runtime_env_for_task_or_actor"),
    ]:
        monkeypatch.setattr(owner, name, getattr(owner, name))


def source(of: Any) -> str:
    return inspect.getsource(of)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        (services.canonicalize_bootstrap_address, (None,)),
        (ray_internals.maybe_enable_token_auth_if_token_available, {"warn_if_disabled": False}),
        (ray._raylet.Config.initialize, None),
        (ray._raylet.AuthenticationTokenLoader.reset_cache, None),
        (state.state._connect_and_get_accessor, ()),
        (ControllerCallback.after_controller_start, (None, None)),
        (FixedScalingPolicy.after_controller_start, (None, None)),
        (FixedScalingPolicy._maybe_send_resource_request, (None,)),
        (DataParallelTrainer._create_default_callbacks, (None,)),
        (DataParallelTrainer._initialize_and_run_controller, (None,)),
        (RayActorManager._actor_task_failed, (None, None, ValueError())),
        (usage.tag_callbacks, ([],)),
        (worker_group_state._shutdown_sync_actor, (None,)),
        (TorchBackend.__bases__[0].on_start, (None, None, None)),
        (TorchBackend.__bases__[0].on_shutdown, (None, None, None)),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_a_method_takes_what_it_is_called_with(method: Callable[..., Any], arguments: Any) -> None:
    assert callable(method)
    if arguments is not None:  # what is written in Cython has no signature
        named, placed = (arguments, ()) if isinstance(arguments, dict) else ({}, arguments)
        inspect.signature(method).bind(*placed, **named)


def test_the_processes_that_are_left_out_are_started_by_methods_of_these_names() -> None:
    for name in ray_internals.HELPERS:
        assert next(iter(inspect.signature(getattr(Node, name)).parameters)) == "self"
    with ray_internals.without_helper_processes():
        assert all(getattr(Node, name)(None) is None for name in ray_internals.HELPERS)
    defaults = source(DataParallelTrainer._create_default_callbacks)
    assert all(f"{name}(" in defaults for name in ray_internals.UNUSED_CALLBACKS)
    assert "controller_init_kwargs" in source(DataParallelTrainer._initialize_and_run_controller)
    assert "scaling_policy=create_scaling_policy" in source(DataParallelTrainer.fit)


def test_the_agent_that_stands_in_says_that_it_serves_nothing_and_ends_after_its_node(tmp_path: Path) -> None:
    command = source(services.start_raylet)
    assert "PROCESS_TYPE_DASHBOARD_AGENT, session_dir" in command
    assert services._build_python_executable_command_memory_profileable.__name__ in command
    words = ["dashboard/agent.py", "--node-id=abc", f"--session-dir={tmp_path}", "--head"]
    node = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", node, *ray_internals.AGENT, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout
    agent = int(process.stdout.readline())
    names = {f"{port}_abc" for port in ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")}
    wait_for(lambda: {path.name for path in tmp_path.iterdir()} == names, "the ports")
    assert {path.read_text() for path in tmp_path.iterdir()} == {"-1"}
    process.communicate()
    wait_for(lambda: not kill(agent, 0), "the agent to end", every=0.1)


def test_variables_that_a_process_inherits_are_not_handed_to_it_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"= {ray_internals.PARSE.__name__}(" in source(ray.actor)
    assert 'runtime_env = {"env_vars": env_vars}' in source(class_cache)
    for name, value in {**session.ENVIRONMENT, **session.HERE, "CHANGED": "before"}.items():
        monkeypatch.setenv(name, value)
    with ray_internals.inherited_environment():
        assert source(ray.actor.parse_runtime_env_for_task_or_actor) != source(ray_internals.PARSE)
        cache = class_cache._ActorClassCache()
        assert cache.get(type("Trainable", (), {}))._default_options["runtime_env"] is None
        monkeypatch.setenv("CHANGED", "since")
        given = {"env_vars": {"CHANGED": "since", "PL_DISABLE_FORK": "1", "OTHER": "1"}}
        own = ray.actor.parse_runtime_env_for_task_or_actor(given)
        assert own == {"env_vars": {"CHANGED": "since", "OTHER": "1"}}
    assert ray.actor.parse_runtime_env_for_task_or_actor is ray_internals.PARSE
    ray_internals.inherit_environment()
    assert ray.actor.parse_runtime_env_for_task_or_actor({"env_vars": {"PL_DISABLE_FORK": "1"}}) is None
    monkeypatch.setattr(ray.actor, ray_internals.PARSE.__name__, ray_internals.PARSE)
    monkeypatch.delenv(ray_internals.STARTED_HERE)
    ray_internals.inherit_environment()
    assert ray.actor.parse_runtime_env_for_task_or_actor is ray_internals.PARSE


def test_a_ray_that_is_started_has_the_loopback_address() -> None:
    assert isinstance(ray_constants.ENABLE_RAY_CLUSTER, bool)
    with ray_internals.loopback_address():
        assert services.get_node_ip_address() == "127.0.0.1"


def test_what_a_ray_will_have_is_counted_without_one() -> None:
    cpus, gpus = ray_internals.local_resources()
    assert cpus >= 1
    assert gpus >= 0


def test_a_group_needs_no_more_of_the_synchronization_actor_than_its_stand_in_has() -> None:
    """Of what a group calls when a node is about to be taken away or one worker is replaced, popgpt uses neither."""
    assert source(worker_group.WorkerGroup._start_impl).count("SynchronizationActor.options(") == 1
    ray_internals.SynchronizationActor.leave_out()
    stand_in = worker_group.SynchronizationActor.options(label_selector={}).remote(timeout_s=1.0, warn_interval_s=1.0)
    assert stand_in is not None
    worker_group_state._shutdown_sync_actor(stand_in)
    for method in (worker_group_state.WorkerGroupState.shutdown, worker_group_state.WorkerGroupStateBuilder.shutdown):
        assert "_shutdown_sync_actor(self.sync_actor)" in source(method)
    assert TorchBackend.has_replica_groups is False


def test_a_process_group_is_a_backend_of_ray_trains() -> None:
    config = ProcessGroup(timeout_s=9)
    assert config.backend_cls is TorchBackend
    assert TorchBackend.share_cuda_visible_devices
    assert config.train_func_context is not None


def test_a_process_that_died_is_told_from_a_worker_that_failed() -> None:
    death = ray.exceptions.ActorDiedError()
    assert ray_internals.death_of(WorkerHealthCheckFailedError("a health check failed", death)) is death
    assert ray_internals.death_of(ValueError("it is wrong")) is None


def test_the_table_of_placement_groups_says_who_made_each() -> None:
    fields = PlacementGroupTableData.DESCRIPTOR.fields_by_name
    assert {"creator_actor_id", "creator_actor_dead", "creator_job_id", "placement_group_id", "state"} <= set(
        fields.keys()
    )
    assert isinstance(PlacementGroupTableData.REMOVED, int)


@pytest.mark.parametrize(
    "death",
    [
        ray.exceptions.ActorDiedError(),
        ray.exceptions.ActorUnavailableError("it does not answer", b"\1" * 16),
    ],
    ids=lambda death: type(death).__name__,
)
def test_what_ray_says_of_a_process_that_died_is_known_as_such(death: Exception) -> None:
    assert ray_internals.DIED.search(str(death))


def test_a_process_that_rays_memory_monitor_killed_has_died_to_ray_tune(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Exception] = []
    monkeypatch.setattr(RayActorManager, "_actor_task_failed", lambda self, task, exception: said.append(exception))
    ray_internals.patch_tune()
    manager = tune_controller.RayActorManager
    for error in (ray.exceptions.OutOfMemoryError("enough"), ValueError("it is wrong")):
        manager._actor_task_failed(object.__new__(manager), None, error)
    assert isinstance(said[0], ray.exceptions.RayActorError)
    assert ray_internals.OUT_OF_MEMORY in str(said[0])
    assert isinstance(said[1], ValueError)
    assert usage.tag_callbacks([]) is False
    assert "RayActorManager(" in source(tune_controller.TuneController.__init__)
