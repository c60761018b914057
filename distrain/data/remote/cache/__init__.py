"""A node's store of blocks of remote shards: each is downloaded once, checked, and mapped by all.

``remote_store`` reads objects below a URL; ``blocks`` says what a block is; ``fetching`` moves one,
again if need be; ``directory`` is the folder that the processes of a node share; ``block_cache`` is
what readers ask; ``look_ahead`` downloads in the order in which blocks will be read.
"""
