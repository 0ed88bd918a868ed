"""The records of how a model file was produced: its lineage, its run record, and the journal of stages.

`compose` builds the lineage that strip writes into a model file. `records` writes a run record into records/, and
`journal` an entry into journal/ for each run of a stage; git keeps both. `lock` reads dvc.lock. There DVC records the
files that each stage read and wrote. Stages and `selection` call this package to write, `audit` reads the records back,
and `verification` compares them with the files. Start with `compose.compose`, which lists the keys of a lineage.
"""
