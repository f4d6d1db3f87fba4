"""An ETL over 10,000 daily measurements, with a person who mends it: `python examples/co2_etl.py`.

The rows are worked on in other processes, at most one file per table at a time. One line of the file is broken on
purpose: the run does not fail but pauses, and goes on where it was once somebody says that this line is to be left out.
"""

import asyncio
import csv
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from pydantic import BaseModel

from poundlock import Exclusive, Workflow, WorkflowRuntime

DATA = Path(__file__).resolve().parent / "data" / "co2_daily.csv"
BROKEN = 5_003
"""The line that is spoilt: lines count from 1, and the first one is the header."""
CHUNK = 1_000
"""Lines per call of a process."""


class Load(BaseModel):
    """The state of a run."""

    table: str
    path: str
    database: str
    ignore: list[int] = []
    chunks: list[tuple[int, int]] = []
    sums: list[dict[str, tuple[int, float]]] = []
    years: int = 0
    rows: int = 0


etl = Workflow("etl", state=Load, mode=Exclusive(key="table"), on_failure="pause")


@etl.on("file.arrived")
@etl.step
def split(path: str) -> dict[str, object]:
    """Cut the file into chunks of lines."""
    with Path(path).open(encoding="utf-8") as file:
        lines = sum(1 for _ in file)
    return {"chunks": [(first, min(first + CHUNK, lines + 1)) for first in range(2, lines + 1, CHUNK)]}


@etl.step(each="chunks", limit=4, into="sums", executor="process")
def measure(item: tuple[int, int], path: str, ignore: list[int]) -> dict[str, tuple[int, float]]:
    """Return count and sum of the values per year, for some lines. It runs in another process."""
    sums: dict[str, tuple[int, float]] = {}
    with Path(path).open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            if not item[0] <= number < item[1] or number in ignore:
                continue
            date, text = row
            try:
                value = float(text)
            except ValueError as error:
                raise ValueError(f"line {number} is {date},{text}: {text!r} is no number") from error
            count, total = sums.get(date[:4], (0, 0.0))
            sums[date[:4]] = (count + 1, total + value)
    return sums


@etl.step
def store(state: Load) -> dict[str, int]:
    """Write the mean of each year, in one transaction. A repetition after a crash writes the same rows again."""
    years: dict[str, tuple[int, float]] = {}
    for part in state.sums:
        for year, (count, total) in part.items():
            before = years.get(year, (0, 0.0))
            years[year] = (before[0] + count, before[1] + total)
    with closing(sqlite3.connect(state.database)) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS means (source, year, rows, mean, PRIMARY KEY (source, year))")
        means = [(state.table, year, count, total / count) for year, (count, total) in years.items()]
        database.executemany("REPLACE INTO means VALUES (?, ?, ?, ?)", means)
    return {"years": len(years), "rows": sum(count for count, _ in years.values())}


def spoilt_copy(folder: Path) -> Path:
    """Return a copy of the measurements in which one line is broken."""
    lines = DATA.read_text(encoding="utf-8").splitlines()
    lines[BROKEN - 1] = lines[BROKEN - 1].partition(",")[0] + ",n/a"
    copy = folder / "co2_daily.csv"
    copy.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return copy


async def main(folder: Path) -> None:
    """Load the spoilt file; mend the run; and look at what is stored."""
    file = {"table": "co2", "path": str(spoilt_copy(folder)), "database": str(folder / "means.db")}
    async with WorkflowRuntime(etl, store=f"sqlite:///{folder / 'runs.db'}") as rt:
        receipt = await rt.emit("file.arrived", file)
        [run] = await receipt.results()
        print(f"{run.status}: {run.error.message if run.error else ''}")
        print(f"the same table meanwhile: {(await rt.emit('file.arrived', file)).lines[0].verdict}")
        run = await rt.resume(run.run_id, {"ignore": [BROKEN]})
        print(f"{run.status}: {run.state.rows} rows of {run.state.years} years")
    with closing(sqlite3.connect(folder / "means.db")) as database:
        for year, rows, mean in database.execute("SELECT year, rows, mean FROM means WHERE year IN ('1958', '1988')"):
            print(f"{year}: {mean:.2f} ppm, {rows} days")


if __name__ == "__main__":
    place = Path(tempfile.mkdtemp(prefix="poundlock-etl-"))
    try:
        asyncio.run(main(place))
    finally:
        shutil.rmtree(place)
