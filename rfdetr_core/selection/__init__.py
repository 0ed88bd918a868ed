"""Selection of the best weights of a run, and the file to deploy.

The stage select_best calls `select.select`. This function compares the best scores of the regular and the EMA weights;
the stage writes its result to selection.json. The stage strip calls `strip.strip`. That function takes the checkpoint
of the winner and removes everything that loading does not need. Then it adds the lineage, and writes
checkpoint_best_total.pth and the run record. Both modules are short; read select.py first.
"""
