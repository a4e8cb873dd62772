"""The tags between which models think."""

import re

TAG = re.compile(r"[<\[](?P<closing>/?)(?:seed:)?think(?:ing)?[>\]]", re.IGNORECASE)
"""Opens or closes a thought: `<think>` of most models, `[THINK]` of Magistral, `<seed:think>` of Seed-OSS."""
