"""What is missing leaves a test out where anybody can see it, and fails it in CI."""

from __future__ import annotations

import pytest

from tests.support_tools import PACKAGES, leave_out, needs


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "ATMOST_CI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "")


@pytest.mark.parametrize("name", PACKAGES)
def test_a_program_that_is_missing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(pytest.skip.Exception, match=f"no {name} .*apt install {PACKAGES[name]}"):
        needs(name)
    for ci in ("CI", "ATMOST_CI"):
        with monkeypatch.context() as there:
            there.setenv(ci, "1")
            with pytest.raises(pytest.fail.Exception, match=f"there is no {name} "):
                needs(name)


def test_nothing_is_missing() -> None:
    leave_out("")
