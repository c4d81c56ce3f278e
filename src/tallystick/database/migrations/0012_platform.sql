-- Resource kinds are created empty when they are first seen, and completed later: a plan by guid gets the name that people know it by.

ALTER TABLE resource_kinds ADD COLUMN name text CHECK (name <> '');

-- Organizations are the customers whose apps and services a Cloud Foundry platform has shown in a reading.
CREATE INDEX series_cloud_foundry ON series (customer_id) WHERE source IN ('reading:cloud-foundry', 'reading:cloud-foundry-app');
