"""What devices and server do during a trial: an exporter, scrapes on the samples' clock, figures per phase."""
