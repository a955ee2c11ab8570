"""What models weigh and machines can do: shapes, floors, ceilings, predictions."""
