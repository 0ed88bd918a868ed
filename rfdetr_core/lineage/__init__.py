"""What made a file: written into it, found again in git. `verification/` checks it."""
