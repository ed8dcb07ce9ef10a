"""What parameters are called: our aliases, what other programs say, and the nearest name to one that is unknown."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

ALIASES = {"n_embd": "d_model"}
# What other programs call our parameters; and, where there is none like it, what to do instead.
_FOREIGN = {
    "learning_rate": "lr base_lr max_lr peak_lr",
    "min_lr": "lr_min min_learning_rate final_lr end_lr eta_min",
    "n_head": "n_heads num_heads nhead heads num_attention_heads",
    "d_head": "head_dim dim_head head_size",
    "n_layer": "n_layers num_layers layers depth num_hidden_layers n_blocks",
    "d_model": "hidden_size hidden_dim embed_dim embedding_dim embedding_size n_embed dim width",
    "batch_size": "bs batch train_batch_size micro_batch_size per_device_batch_size",
    "gradient_accumulation_steps": "grad_accum grad_accum_steps gradient_accumulation accumulate_grad_batches",
    "max_iters": "max_steps steps num_steps n_steps train_steps total_steps iters iterations num_iters num_iterations",
    "warmup_iters": "warmup warmup_steps num_warmup_steps lr_warmup_steps",
    "lr_decay_iters": "lr_decay_steps decay_steps decay_iters",
    "weight_decay": "wd weightdecay l2 weight_decay_rate",
    "dropout": "dropout_rate dropout_prob dropout_p p_dropout resid_pdrop attn_pdrop",
    "block_size": "context context_length context_size seq_len seq_length sequence_length max_seq_len max_length n_ctx "
    "n_positions",
    "grad_clip": "clip clip_grad gradient_clip gradient_clip_val max_grad_norm max_norm",
    "optimizer": "optim opt",
    "beta1": "adam_beta1 b1 momentum",
    "beta2": "adam_beta2 b2",
    "dtype": "precision amp_dtype",
    "compile": "torch_compile",
    "workers": "num_workers n_workers world_size nproc_per_node",
    "seed": "random_seed random_state rng_seed",
    "eval_interval": "eval_every eval_steps eval_freq val_interval validate_every",
    "log_interval": "log_every logging_steps log_freq print_every",
    "best_by": "monitor metric",
    "out_dir": "output_dir save_dir run_dir checkpoint_dir log_dir",
    "data_dir": "data_path data_folder data_root",
    "dataset": "dataset_name data",
    "wandb_run_name": "run_name name",
    "experiment": "experiment_name project",
    "a rate that does not decay is min_lr equal to learning_rate": "decay_lr",
    "the schedule is linear over warmup_iters, then a cosine down to min_lr at lr_decay_iters": "scheduler "
    "lr_scheduler lr_schedule lr_scheduler_type",
    "a run is measured in iterations, max_iters; explain says how many epochs they are": "epochs n_epochs num_epochs "
    "max_epochs num_train_epochs",
    "give dtype: bfloat16": "fp16 bf16 amp mixed_precision",
    "give beta1 and beta2": "betas adam_betas",
    "it follows from the rest; leave it out": "vocab_size backend",
    "score a run by python -m popgpt.evaluate OUT_DIR": "eval_only",
    "give init_from: resume": "resume",
    "give device: cuda, and workers for several": "gpus num_gpus",
}


def by_foreign_name(table: Mapping[str, str]) -> dict[str, str]:
    """The table from what others say to what is meant, of one from what is meant to what others say, in words."""
    return {name: meant for meant, names in table.items() for name in names.split()}


FOREIGN = by_foreign_name(_FOREIGN)


def nearest_name(name: str, names: Iterable[str], foreign: Mapping[str, str] = FOREIGN) -> str:
    """`; did you mean X?` for what is most likely meant by `name`, or what to do instead, or where the names are told.

    foreign: what others call something, and our name for it, or words.
    """
    known = [*names, *(alias for alias, meant in ALIASES.items() if meant in names)]
    meant = foreign.get(name.lower().replace("-", "_"), "")
    if " " in meant:
        return f"; {meant}"
    close = [meant] if meant in known else difflib.get_close_matches(name[:80], known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else "; see --help for the known ones"
