;; Capture, the actor and host preparation for GNU Shepherd 1.0 or later. In Shepherd's configuration, load this file and
;; start the services that you need:
;;
;;   (load "/usr/share/wakevirt/wakevirt.scm")
;;   (start-in-the-background '(wakevirt-actor wakevirt-capture))
;;
;; Shepherd starts the programs as root, and each changes to its own user. There is no #:requirement, because the
;; programs wait for the bus and for libvirt themselves.

(use-modules (shepherd service)
             (shepherd support))

(define (wakevirt-service name what command)
  (service
   (list (string->symbol name))
   #:documentation what
   #:start (make-forkexec-constructor
            command
            ;; Shepherd opens the file, and its log-rotation service rotates it.
            #:log-file (string-append "/var/log/" name ".log")
            ;; A core dump would contain passwords.
            #:resource-limits '((core 0 0)))
   #:stop (make-kill-destructor #:grace-period 10)
   #:respawn? #t
   #:respawn-delay 1
   ;; With this delay, the limit is never reached: an error can be temporary.
   #:respawn-limit '(60 . 30)
   ;; An invalid configuration (78) or command line (2) remains invalid until the administrator corrects it.
   #:termination-handler
   (lambda (service process status)
     (if (memv (status:exit-val status) '(2 78))
         (local-output "Service ~a: its configuration or command line is invalid; it is not restarted." name)
         (default-service-termination-handler service process status)))
   #:actions
   (actions
    (reload "Read the configuration again."
            (lambda (process)
              (kill (process-id process) SIGHUP)
              #t)))))

(register-services
 (list (wakevirt-service "wakevirt-capture" "Receives magic packets."
                         '("/usr/bin/wakevirt-capture" "--log-to" "stderr"))
       (wakevirt-service "wakevirt-actor" "Wakes domains."
                         '("/usr/bin/wakevirt-actor" "--log-to" "stderr"))
       (wakevirt-service "wakevirt-host" "Prepares the host for domains."
                         ;; First, the service's directories, and the permissions of the files in sysfs that it writes.
                         '("/bin/sh" "-c"
                           "/usr/libexec/wakevirt/tmpfiles /usr/lib/tmpfiles.d/wakevirt-host.conf
                            exec /usr/bin/wakevirt-host --log-to stderr"))))
