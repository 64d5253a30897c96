"""The published trainers, RDDM's and DiffUIR's, over `rddm_fast.training.trainer.Trainer`."""
