"""`isthmus certs`: the certificates and tokens by which sites and server know each other."""

import datetime
import json
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from isthmus.errors import NotFoundError
from isthmus.wire import certs

app = App(name="certs", help="Make certificates and tokens for the sites.")

Sites = Annotated[list[str], Parameter(name="--site")]
Hosts = Annotated[list[str], Parameter(name="--server-host")]


@app.command
def init(folder: Path, *, site: Sites, server_host: Hosts | None = None, json_: bool = False) -> None:
    """Make what is missing: an authority, the server's certificate, and a certificate and token per site.

    What exists is kept, so another site can be added later. Copy FOLDER/SITE to the site and FOLDER/server to
    the server; nobody else needs FOLDER/ca.key.

    Parameters
    ----------
    folder
        Where to put them.
    site
        Name of a site, or 'standby' for a standby server; may be given again.
    server_host
        Host name or address to write into the server's certificate, for other TLS tools; may be given again.
    json_
        Print one JSON object.
    """
    made = certs.init(folder, site, server_host or [], datetime.datetime.now(datetime.UTC))
    sites = certs.site_names(folder)
    if json_:
        print(json.dumps({"folder": str(folder), "made": [path.name for path in made], "sites": sites}))
        return
    for path in made:
        print(path)
    if not made:
        print(f"all there already: {', '.join(sites)}")


@app.command
def show(folder: Path, *, json_: bool = False) -> None:
    """List the certificates below a folder: whose, for what, how long, and who may read the key.

    Parameters
    ----------
    folder
        What `certs init` made, or one party's part of it.
    json_
        Print one JSON list.
    """
    rows = certs.describe(folder)
    if not rows:
        raise NotFoundError(
            "no certificates here",
            where=str(folder),
            hint="make them with `isthmus certs init DIR --site NAME`",
        )
    if json_:
        print(json.dumps(rows))
        return
    table = Table(box=None, pad_edge=False)
    for column in rows[0]:
        table.add_column(column.replace("_", " "))
    for row in rows:
        table.add_row(*row.values())
    Console(soft_wrap=True).print(table)
