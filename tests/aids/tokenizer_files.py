"""Tokenizers trained on the spot."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SYLLABLES = [a + b + c for a in "bdfgklmn" for b in "aeiou" for c in "bdfgklmnrst"]


def trained_tokenizer(folder: Path, words: list[str], *, bos: bool, prefix: bool = True) -> None:
    """A byte-level BPE tokenizer that knows ``words``, with or without a token and a blank before every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=4000, special_tokens=["<s>"], show_progress=False)
    tokenizer.train_from_iterator([word for word in words for _ in range(3)], trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
