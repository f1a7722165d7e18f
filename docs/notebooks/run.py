"""Run the notebooks anew and save them with their outputs, here or in another folder: run.py [FOLDER]"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

HERE = Path(__file__).parent
NO_OPEN_PORT = Config({"KernelManager": {"transport": "ipc"}})


def main(folder: Path) -> None:
    for path in sorted(HERE.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=120, coalesce_streams=True, config=NO_OPEN_PORT).execute()
        for cell in notebook.cells:
            cell.metadata = {}
        nbformat.write(notebook, folder / path.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else HERE)
