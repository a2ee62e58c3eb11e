"""Objects of trees from worker to worker: `door.py` gives them out, `asking.py` asks others before imagecache."""
