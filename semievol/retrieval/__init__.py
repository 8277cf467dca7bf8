"""Find the nearest labeled rows: embeddings, FAISS, BM25."""
