"""One file per wire protocol. Drivers stamp times; they never subtract them."""
