"""text-generation-inference's shards without its router: started together, warmed up, watched."""
