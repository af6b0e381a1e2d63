-- Results of a job are read in the order of their rows, a page at a time.
DROP INDEX job_devices_by_status;
CREATE INDEX job_devices_by_job ON job_devices (job);
CREATE INDEX job_devices_pending ON job_devices (job) WHERE status = 'pending';
CREATE INDEX job_devices_running ON job_devices (job) WHERE status = 'running';
