"""How far a stage in a scratch folder is, from its records."""

import json

from distrain.runs.folder import RunFolder
from distrain.runs.records import STEP
from launcher.proving.launches import Course


def record(run, attempt, *steps):
    metrics = run.stage("train").metrics
    metrics.parent.mkdir(parents=True, exist_ok=True)
    with metrics.open("a") as file:
        for step in steps:
            line = {STEP: step, "attempt": attempt, "perf/step_time_s": step / 10}
            file.write(json.dumps(line) + "\n")


def test_a_course_falls_back_at_a_resume_and_keeps_how_far_it_was(tmp_path):
    run = RunFolder(tmp_path)
    course = Course(run, "train")
    record(run, 1, 1, 2, 3)
    course.look()
    moved_s, recorded_s = course.moved_s, course.recorded_s
    record(run, 2, 2)
    course.look()
    assert (course.step, course.step_s, course.furthest, course.attempt) == (2, 0.2, 3, 2)
    assert course.moved_s == moved_s
    assert course.recorded_s > recorded_s


def test_what_a_copied_run_had_recorded_itself_does_not_count(tmp_path):
    run = RunFolder(tmp_path)
    record(run, 2, 8, 9)
    course = Course(run, "train", after=2)
    course.look()
    assert (course.step, course.furthest) == (0, 0)
    record(run, 3, 6)
    course.look()
    assert (course.step, course.furthest, course.attempt) == (6, 6, 3)
