"""Selection of the best weights of a run, and the file to deploy.

The stage select_best calls `select.select`. It compares the best scores of the regular and the EMA weights; the stage
writes its answer to selection.json. The stage strip calls `strip.strip`. It takes the checkpoint of the winner, removes
what loading does not need, adds the lineage, and writes checkpoint_best_total.pth and the run record. Both modules are
short; read them in this order.
"""
