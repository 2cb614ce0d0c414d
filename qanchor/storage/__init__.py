"""The stores: event log, Feast, FAISS. Nothing else imports feast or faiss."""
