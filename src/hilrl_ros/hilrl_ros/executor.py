"""An executor that spends little on each message."""

from __future__ import annotations

import contextlib
import inspect
import time

from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.subscription import Subscription
from rclpy.task import Task

_RARE_S = 0.05  # how long a busy node lets parameter services and QoS events wait
_RARE_SERVICES = ("rcl_interfaces.", "type_description_interfaces.")


class Executor(SingleThreadedExecutor):
    """Runs callbacks in the calling thread; messages take the short way to theirs.

    rclpy's own executor makes a new wait set of all entities for each callback, wraps the callback in coroutines and
    wakes itself twice after it. In a ring of seven processes that was three times the CPU per message. This one
    keeps its wait set, leaves what is rare out of it for moments, and calls subscriptions itself. Whatever else is
    ready (timer, service, client, guard condition, QoS event, a coroutine) is left to rclpy's `spin_once`. Callback
    groups count only there: a message does not wait for a coroutine of its group.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._entities = contextlib.ExitStack()  # keeps what is waited for from being destroyed meanwhile
        self._stale = True
        self._rare_at = 0.0

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Wait until something is ready, at most `timeout_sec` (s; None: for ever), and run its callbacks.

        It may return early, and may run one callback of each subscription that is ready.
        """
        if self._stale:
            self._gather()
        wait_set = self._wait_set
        wait_set.clear_entities()
        for add, handles in self._handles:
            for handle in handles:
                add(handle)
        until_rare = self._rare_at - time.monotonic()
        if until_rare <= 0:
            for service in self._rare_services:
                wait_set.add_service(service)
            for waitable in self._waitables:
                waitable.add_to_wait_set(wait_set)
        elif timeout_sec is None or timeout_sec > until_rare:
            timeout_sec = until_rare
        wait_set.wait(-1 if timeout_sec is None else int(timeout_sec * 1e9))
        if not self._context.ok():
            raise ExternalShutdownException
        rest = self._others_ready(until_rare <= 0)
        ready = wait_set.get_ready_entities("subscription")
        if ready:
            for subscription, pointer, plain in self._subscriptions:
                if pointer in ready:
                    if plain:
                        self._call(subscription)
                    else:
                        rest = True
        if rest:
            super().spin_once(timeout_sec=0)
            # It runs one task only, and nothing else wakes the others: a future that is done has several.
            if any(map(_waits_to_begin, [task for task, _, _ in self._tasks])):
                self._guard.trigger()

    def wake(self) -> None:
        """Look at all entities anew: a node made or destroyed one."""
        self._stale = True
        super().wake()

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """Let go of all entities."""
        self._entities.close()
        self._stale = True
        return super().shutdown(timeout_sec)

    def _call(self, subscription: Subscription) -> None:
        """Take a message and call the subscription's function with it."""
        taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
        if taken is None:
            return
        if subscription._callback_type is Subscription.CallbackType.MessageOnly:
            subscription.callback(taken[0])
        else:
            subscription.callback(*taken)

    def _others_ready(self, rare_too: bool) -> bool:
        """Whether there is work for rclpy's own `spin_once`."""
        wait_set = self._wait_set
        triggered = wait_set.get_ready_entities("guard_condition")
        self._stale |= self._guard.handle.pointer in triggered
        for guard in self._guards:
            if guard.handle.pointer in triggered:
                guard._executor_triggered = True  # waiting has reset it; rclpy triggers it again
        ready = bool(triggered) or any(
            wait_set.get_ready_entities(kind) for kind in ("timer", "service", "client")
        )
        if rare_too:
            self._rare_at = time.monotonic() + _RARE_S
            ready |= any([waitable.is_ready(wait_set) for waitable in self._waitables])
        return ready

    def _gather(self) -> None:
        """Make the wait set of everything that the nodes have."""
        self._entities.close()
        self._entities = stack = contextlib.ExitStack()
        stack.enter_context(self._context.handle)
        subscriptions, guards, timers, clients, services, waitables = ([] for _ in range(6))
        for node in self.get_nodes():
            for entities, found in (
                (subscriptions, node.subscriptions), (guards, node.guards), (timers, node.timers),
                (clients, node.clients), (services, node.services), (waitables, node.waitables),
            ):  # fmt: skip
                for entity in found:
                    with contextlib.suppress(InvalidHandle):
                        stack.enter_context(entity if entities is waitables else entity.handle)
                        entities.append(entity)
        self._guards, self._waitables = guards, waitables
        self._subscriptions = [
            (s, s.handle.pointer, not inspect.iscoroutinefunction(s.callback)) for s in subscriptions
        ]
        guards = [*guards, self._guard, self._sigint_gc]
        count = [len(entities) for entities in (subscriptions, guards, timers, clients, services)] + [0]
        for waitable in waitables:
            n = waitable.get_num_entities()
            more = (n.num_subscriptions, n.num_guard_conditions, n.num_timers, n.num_clients, n.num_services)
            count = [a + b for a, b in zip(count, (*more, n.num_events), strict=True)]
        self._wait_set = wait_set = _rclpy.WaitSet(*count, self._context.handle)
        rare = [s.srv_type.__module__.startswith(_RARE_SERVICES) for s in services]
        self._rare_services = [s.handle for s, is_rare in zip(services, rare, strict=True) if is_rare]
        self._handles = [
            (wait_set.add_subscription, [s.handle for s in subscriptions]),
            (wait_set.add_guard_condition, [g.handle for g in guards]),
            (wait_set.add_timer, [t.handle for t in timers]),
            (wait_set.add_client, [c.handle for c in clients]),
            (
                wait_set.add_service,
                [s.handle for s, is_rare in zip(services, rare, strict=True) if not is_rare],
            ),
        ]
        self._stale, self._rare_at = False, 0.0


def _waits_to_begin(task: Task) -> bool:
    """Whether a task has not run yet; one that awaits something has."""
    if task.done():
        return False
    handler = task._handler
    return not inspect.iscoroutine(handler) or inspect.getcoroutinestate(handler) == inspect.CORO_CREATED
