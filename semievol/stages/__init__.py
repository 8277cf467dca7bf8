"""The stages: each module has one `run` that reads its inputs, writes its folder, and returns a `StageResult`."""
