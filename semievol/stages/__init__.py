"""The stages: functions of a `StageContext` that read their inputs, write their folder, and return a `StageResult`."""
