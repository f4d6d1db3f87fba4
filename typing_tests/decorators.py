"""`step` and `service` decorate, with options or without, and take a function themselves with the same options."""

from typing import assert_type

from poundlock import Retry, Workflow

wf = Workflow("typed")


@wf.step
def plain(n: int) -> dict[str, int]:
    return {"n": n}


@wf.step(stage="both", timeout="5s")
async def timed(n: int) -> dict[str, int]:
    return {"n": n}


def shared(n: int) -> dict[str, int]:
    return {"n": n}


class Bank:
    """A factory that is a class."""

    def pay(self) -> str:
        return "paid"


@wf.service
def settings() -> dict[str, str]:
    return {}


assert_type(plain(1), dict[str, int])
assert_type(wf.step(shared, id="again", retry=Retry(3))(1), dict[str, int])
assert_type(wf.service(Bank, id="bank", scope="run")().pay(), str)
assert_type(settings(), dict[str, str])
