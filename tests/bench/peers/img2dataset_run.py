"""Run img2dataset on the same URLs.

python img2dataset_run.py URLS OUT   prints {"seconds": …, "warm_seconds": …, "bytes": …}

`warm_seconds` is the time from the start of the first shard to the end of the last, according to
img2dataset's statistics.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # a library of it looks for updates and prints them
started = time.perf_counter()

from img2dataset import download  # noqa: E402

if __name__ == "__main__":
    download(
        url_list=sys.argv[1],
        output_folder=sys.argv[2] + "/out",
        output_format="files",
        input_format="txt",
        processes_count=2,
        thread_count=32,
        number_sample_per_shard=200,
        resize_mode="no",
        encode_quality=45,
        encode_format="jpg",
        disable_all_reencoding=False,
        user_agent_token="bench",
    )
    seconds = time.perf_counter() - started
    out = Path(sys.argv[2])
    total = sum(file.stat().st_size for file in out.rglob("*.jpg"))
    shards = [json.loads(file.read_text()) for file in out.rglob("*_stats.json")]
    warm = max(s["end_time"] for s in shards) - min(s["start_time"] for s in shards)
    print(json.dumps({"seconds": seconds, "warm_seconds": warm, "bytes": total}))
