"""Problems: how they read, and in which order they stand."""

from reconciler.core.problem import Problem, sort_problems


def test_a_problem_reads_as_file_line_column_message() -> None:
    assert str(Problem(file="a.yaml", line=3, column=7, message="is wrong")) == "a.yaml:3:7: is wrong"
    assert str(Problem(file="a.yaml", message="is missing")) == "a.yaml: is missing"


def test_problems_are_sorted_by_place_and_each_stands_once() -> None:
    first = Problem(file="a.yaml", line=2, column=1, message="x")
    second = Problem(file="a.yaml", line=10, column=1, message="x")
    third = Problem(file="b.yaml", line=1, column=1, message="x")
    assert sort_problems([third, second, first, second]) == (first, second, third)
