"""What the launcher tells the ranks: one JSON file, checked by both sides; and what their exit statuses tell it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medllm.errors import user_error
from medllm.site.model import ObjectStore
from trainer.config import TrainConfig

# A rank that broke has any other bad status.
REFUSED = 2
STOPPED = 128 + signal.SIGTERM
RUN_NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"


class Request(BaseModel):
    """Paths as the ranks see them; `cache_directory` is on a disk of the node's own. `world_size` is how many ranks the
    launcher starts; `peak_flops` what all their GPUs could do in a second, in BF16, where that is known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Annotated[str, Field(pattern=RUN_NAME)]
    run_directory: Path
    data_directory: Path
    public_key: Path
    cache_directory: Path
    object_store: ObjectStore | None = None
    config: TrainConfig
    steps: Annotated[int, Field(ge=1)]
    world_size: Annotated[int, Field(ge=1)]
    accelerator: Literal["cuda", "npu", "cpu"]
    metrics_port: Annotated[int, Field(ge=0, le=65535)]
    peak_flops: Annotated[float, Field(gt=0)] | None = None

    @classmethod
    def read(cls, path: Path) -> Request:
        """Raises UserError: unreadable or not such a file."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise user_error(
                f"the request can't be read ({error.strerror})", "launch with `medllm train`", file=path
            ) from None
        except ValidationError as error:
            detail = error.errors()[0]
            raise user_error(
                f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}",
                "launch with the `medllm train` of the same version as the trainer's environment",
                file=path,
            ) from None
