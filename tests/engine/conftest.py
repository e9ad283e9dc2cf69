"""Shared by the tests of the detectron2 API: what was logged, and loggers as they were before."""

import logging

import pytest


@pytest.fixture
def logged():
    """`logged("name")` starts to collect the messages of a logger, whatever its handlers and propagation; a list."""
    collected = []

    def collect(name: str) -> list[str]:
        messages: list[str] = []
        handler = logging.Handler(logging.DEBUG)
        handler.emit = lambda record: messages.append(record.getMessage())
        logger = logging.getLogger(name)
        collected.append((logger, handler, logger.level))
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        return messages

    yield collect
    for logger, handler, level in collected:
        logger.removeHandler(handler)
        logger.setLevel(level)
