"""Raw events in; clean events, user sequences, vocabularies and labelled training examples out (ALURE, section 2.1)."""
