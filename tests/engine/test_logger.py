"""Log lines reach stdout and the run's file once, and repeated ones are held back."""

import logging

import pytest
from detectron2.utils.logger import create_small_table, log_every_n, log_first_n, setup_logger


def test_lines_go_to_stdout_and_to_the_file_of_the_folder(tmp_path, capsys):
    logger = setup_logger(str(tmp_path), name="some_logger")
    logging.getLogger("some_logger.part").warning("careful")
    logger.debug("detail")
    out = capsys.readouterr().out
    assert "some_logger.part" in out and "WARNING" in out and "careful" in out and "detail" in out
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert lines[0].endswith("some_logger.part WARNING: careful") and lines[1].endswith("some_logger DEBUG: detail")
    assert "\x1b" not in (tmp_path / "log.txt").read_text()


def test_other_ranks_write_to_their_own_file_alone(tmp_path, capsys):
    setup_logger(str(tmp_path / "run.log"), distributed_rank=2, name="some_logger").info("hello")
    assert capsys.readouterr().out == ""
    assert (tmp_path / "run.log.rank2").read_text().endswith("hello\n")


def test_detectron2_is_abbreviated_on_stdout(capsys):
    setup_logger(name="detectron2")
    logging.getLogger("detectron2.engine").info("hello")
    assert "d2.engine" in capsys.readouterr().out


def test_equal_calls_add_nothing(tmp_path, capsys):
    for _ in range(3):
        logger = setup_logger(str(tmp_path), name="some_logger")
    logger.info("once")
    assert capsys.readouterr().out.count("once") == 1
    assert (tmp_path / "log.txt").read_text().count("once") == 1


@pytest.mark.fallback("detectron2")
def test_a_later_call_replaces_the_handlers_of_earlier_ones(tmp_path, capsys):
    setup_logger(str(tmp_path / "first"), name="some_logger")
    setup_logger(str(tmp_path / "second"), name="some_logger", color=False, abbrev_name="sl").info("once")
    assert capsys.readouterr().out.count("once") == 1
    assert (tmp_path / "first" / "log.txt").read_text() == ""
    assert (tmp_path / "second" / "log.txt").read_text().count("once") == 1


@pytest.mark.fallback("detectron2")
def test_a_bare_file_name_is_a_file_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    setup_logger("run.txt", name="some_logger").info("hello")
    assert (tmp_path / "run.txt").read_text().endswith("hello\n")


def test_repeated_lines_are_counted_by_their_place(logged):
    messages = logged("some_logger")
    for i in range(6):
        log_first_n(logging.INFO, f"first {i}", n=2, name="some_logger")
        log_every_n(logging.INFO, f"every {i}", n=3, name="some_logger")
        log_first_n(logging.INFO, f"message {i % 2}", name="some_logger", key="message")
    assert [m for m in messages if m.startswith("first")] == ["first 0", "first 1"]
    assert [m for m in messages if m.startswith("every")] == ["every 0", "every 3"]
    assert [m for m in messages if m.startswith("message")] == ["message 0", "message 1"]


def test_a_small_table_has_three_decimals():
    table = create_small_table({"AP": 51.8765, "AP50": 70.0})
    assert "51.877" in table and "70.000" in table and table.startswith("|") and "AP50" in table.splitlines()[0]
