;; The services for users' own virtual machines, for GNU Shepherd 1.0 or later. In Shepherd's configuration, load this file
;; and start the services of each such user:
;;
;;   (load "/usr/share/wakevirt/wakevirt-session.scm")
;;   (register-services (make-wakevirt-session "alice"))
;;   (start-in-the-background
;;    '(wakevirt-session.alice.bus wakevirt-session.alice.libvirt wakevirt-session.alice.actor))
;;
;; Shepherd starts the program as root, which changes to the user. There is no #:requirement, because the actor waits for
;; the bus and for libvirt itself.

(use-modules (shepherd service)
             (shepherd support))

(define (make-wakevirt-session user)
  "Return the services for USER's own virtual machines."
  (map (lambda (part)
         (define name (string-append "wakevirt-session." user "." part))
         (service
          (list (string->symbol name))
          #:documentation (string-append "The " part " of " user "'s own virtual machines.")
          #:start (make-forkexec-constructor
                   (list "/usr/libexec/wakevirt/session" user part)
                   ;; Shepherd opens the file, and its log-rotation service rotates it.
                   #:log-file (string-append "/var/log/" name ".log"))
          #:stop (make-kill-destructor #:grace-period 10)
          #:respawn? #t
          #:respawn-delay 1
          ;; With this delay, the limit is never reached: an error can be temporary.
          #:respawn-limit '(60 . 30)
          ;; An invalid configuration (78) or command line (2) remains invalid until someone corrects it.
          #:termination-handler
          (lambda (service process status)
            (if (memv (status:exit-val status) '(2 78))
                (local-output "Service ~a: its configuration or command line is invalid; it is not restarted." name)
                (default-service-termination-handler service process status)))))
       '("bus" "libvirt" "actor")))
