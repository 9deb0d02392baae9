//! A disk that loses, tears and refuses writes, under the real SQLite.
