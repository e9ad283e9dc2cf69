"""What happens in a training run? Hooks surround each step; what a step is, a subclass of `TrainerBase` says."""

import logging
import weakref
from collections.abc import Iterable
from typing import Any, cast

from ..utils.events import EventStorage

__all__ = ["HookBase", "TrainerBase"]

logger = logging.getLogger(__name__)


class HookBase:
    """Something to do around the steps of a run. `trainer` is set at registration and does not keep it alive.

    Order in a run: before_train; for each iteration before_step, (forward, backward,) after_backward, (optimizer,)
    after_step; then after_train, also after a failure, with `trainer.iter < trainer.max_iter` in that case.
    """

    trainer: "TrainerBase" = cast("TrainerBase", None)  # until registration

    def before_train(self) -> None: ...

    def after_train(self) -> None: ...

    def before_step(self) -> None: ...

    def after_backward(self) -> None: ...

    def after_step(self) -> None: ...

    def state_dict(self) -> dict:
        """What a checkpoint keeps of this hook; with something in it there must be a `load_state_dict`."""
        return {}


class TrainerBase:
    """An iterative run with hooks; a subclass says what a step is.

    Attributes:
        iter: the current iteration; `max_iter` once the run is complete.
        start_iter, max_iter: set by `train`.
        storage: the `EventStorage` in use during `train`.
    """

    def __init__(self):
        self._hooks: list[HookBase] = []
        self.iter = 0
        self.start_iter = 0
        self.max_iter = 0
        self.storage: EventStorage | None = None

    def register_hooks(self, hooks: Iterable[HookBase | None]) -> None:
        """Add hooks behind those there are; None entries are skipped."""
        hooks = [hook for hook in hooks if hook is not None]
        for hook in hooks:
            assert isinstance(hook, HookBase), f"not a HookBase: {hook!r}"
            hook.trainer = weakref.proxy(self)
        self._hooks.extend(hooks)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run iterations start_iter .. max_iter - 1; an exception is logged and raised after the hooks' after_train."""
        logger.info("Starting training from iteration %d", start_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                while self.iter < max_iter:
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    self.iter += 1
            except Exception:
                logger.exception("Exception during training in iteration %d:", self.iter)
                raise
            finally:
                self.after_train()

    def run_step(self) -> None:
        raise NotImplementedError

    def before_train(self) -> None:
        for hook in self._hooks:
            hook.before_train()

    def after_train(self) -> None:
        self._tell_storage()
        for hook in self._hooks:
            hook.after_train()

    def _tell_storage(self) -> None:
        assert self.storage is not None  # there is one during `train`
        self.storage.iter = self.iter

    def before_step(self) -> None:
        self._tell_storage()
        for hook in self._hooks:
            hook.before_step()

    def after_backward(self) -> None:
        for hook in self._hooks:
            hook.after_backward()

    def after_step(self) -> None:
        for hook in self._hooks:
            hook.after_step()

    def state_dict(self) -> dict:
        """{"iteration", "hooks": {class name: state}}; of several hooks of a class, the first one with a state."""
        states: dict[str, dict] = {}
        for hook in self._hooks:
            state, name = hook.state_dict(), type(hook).__qualname__
            if state and name not in states:
                states[name] = state
        return {"iteration": self.iter, **({"hooks": states} if states else {})}

    def load_state_dict(self, state_dict: dict) -> None:
        self.iter = state_dict["iteration"]
        for name, state in state_dict.get("hooks", {}).items():
            hooks = [hook for hook in self._hooks if type(hook).__qualname__ == name]
            if not hooks:
                logger.warning("The checkpoint has a state for hook %s, which is not registered", name)
                continue
            hook: Any = next((hook for hook in hooks if hook.state_dict()), hooks[0])
            hook.load_state_dict(state)  # a hook with a state has it
